#include "train/trainer.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/parallel.h"
#include "formats/onnx.h"
#include "formats/safetensors.h"
#include "graph/op.h"
#include "runtime/model.h"
#include "tasks/classify.h"
#include "tasks/preprocess.h"
#include "train/objective.h"
#include "train/optimizer.h"
#include "train/quantization_aware.h"
#include "train/torch_network.h"
#include "train/training_nodes.h"
#include "train/training_log.h"
#include "transform/passes.h"

namespace lathe {

namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr double kDivergence = 20;        // a loss so many times the first one's grows without bound

// A Softmax at the end is the loss's business.
void end_in_logits(Graph& g) {
  for (ValueId& v : g.outputs) {
    const NodeId maker = g[v].producer;
    if (maker && g[maker].op->name == "Softmax" && g[maker].op->domain.empty()) v = g[maker].inputs[0];
  }
}

// Samples become as large as the network's input, where that says so and nothing else does.
void fit_to(const Shape& input, AugmentOptions& a) {
  const size_t rank = input.size();
  if (rank < 2) return;
  if (a.height == 0 && input[rank - 2] != kUnknownDim) a.height = input[rank - 2];
  if (a.width == 0 && input[rank - 1] != kUnknownDim) a.width = input[rank - 1];
}

// Of an epoch, so far.
struct Sums {
  double loss = 0, gradient = 0;
  int64_t judged = 0, right = 0, steps = 0, batches = 0;
  double score() const { return judged > 0 ? static_cast<double>(right) / static_cast<double>(judged) : -1; }
};

class Trainer {
 public:
  Trainer(TrainRequest request, const std::function<void(const TrainProgress&)>& progress, std::stop_token stop);
  TrainResult run();

 private:
  static Graph prepared(const TrainRequest& r);
  nlohmann::json settings() const;
  void check_data();
  PassState pass(int64_t batch) const;  // of all
  Learnt loss_of(const Batch& batch, const PassState& state);
  void step(double rate);
  void move_average();
  std::pair<double, double> evaluate(const std::shared_ptr<const TrainingSet>& set);  // score, loss
  void swap_average();
  void save(int64_t epoch, int64_t batch);
  void restore();
  void write_log() const;
  void epoch_done(int64_t epoch, double seconds);
  void report(int64_t epoch, int64_t batch, bool done);
  void finish(TrainResult& result) const;
  Graph deployed();
  std::string file(const char* name) const { return r_.folder + "/" + name; }
  int64_t epochs() const { return static_cast<int64_t>(std::ceil(r_.options.schedule.epochs)); }

  std::vector<std::string> notices_;  // of quantization
  TrainRequest r_;
  const std::function<void(const TrainProgress&)>& progress_;
  std::stop_token stop_;
  at::Device device_;
  TorchNetwork net_;
  std::unique_ptr<TorchNetwork> teacher_;
  std::unique_ptr<Objective> objective_;
  std::unique_ptr<Optimizer> optimizer_;
  Tensors average_;  // of parameters, then statistics
  std::unique_ptr<Loader> loader_;
  int64_t step_ = 0, total_steps_ = 1, first_epoch_ = 0, first_batch_ = 0;
  Sums sums_;
  double first_loss_ = -1, rate_ = 0;
  std::vector<EpochRecord> records_;
  Clock::time_point start_ = Clock::now(), saved_ = Clock::now(), reported_ = {};
  int64_t start_step_ = 0;
  double waited_before_ = 0;
};

// The request with a network that is rounded in training, where that is asked for. First scales of activations are those of one batch.
TrainRequest rounded(TrainRequest r, std::vector<std::string>* notices) {
  const TrainOptions& o = r.options;
  if (o.quantize.empty()) return r;
  const QatScheme scheme = parse_qat_scheme(o.quantize);
  Graph& g = r.network;
  if (o.conv_bn == ConvBnMode::kDeploy) fold_batch_norm(g);
  LoaderOptions l = once(o.loader);
  l.shuffle = o.loader.shuffle;
  l.drop_last = o.loader.drop_last;
  l.seed = o.seed;
  l.batch = std::min<int64_t>(l.batch, static_cast<int64_t>(r.data.train->size()));
  if (const std::optional<Shape>& in = g[g.inputs.at(0)].shape) fit_to(*in, l.augment);
  const Tensor batch = Loader(r.data.train, l).next().inputs;
  const auto add = [notices](const std::vector<std::string>& more) { notices->insert(notices->end(), more.begin(), more.end()); };
  add(insert_fake_quantize(g, scheme, {1, [batch](size_t) { return std::vector<Tensor>{batch}; }}, o.conv_bn == ConvBnMode::kTrain));
  return r;
}

Graph Trainer::prepared(const TrainRequest& r) {
  Graph g = r.network;
  end_in_logits(g);
  if (r.options.conv_bn == ConvBnMode::kDeploy) fold_batch_norm(g);
  remove_dead(g);
  return g;
}

Trainer::Trainer(TrainRequest request, const std::function<void(const TrainProgress&)>& progress, std::stop_token stop)
    : r_(rounded(std::move(request), &notices_)), progress_(progress), stop_(std::move(stop)),
      device_(torch_device(r_.options.device)), net_(prepared(r_), {.type = at::kFloat, .device = device_, .freeze = r_.options.freeze, .conv_bn = r_.options.conv_bn, .recompute = r_.options.recompute}) {
  const TrainOptions& o = r_.options;
  if (o.accumulate < 1) fail(ErrorKind::kUsage, "{} batches for a step", o.accumulate);
  if (!(o.ema >= 0 && o.ema < 1)) fail(ErrorKind::kUsage, "an average of weights with decay {}: 0 to below 1", o.ema);
  if (!(o.label_smoothing >= 0 && o.label_smoothing < 1)) fail(ErrorKind::kUsage, "label smoothing {}: 0 to below 1", o.label_smoothing);
  check_data();
  optimizer_ = Optimizer::make(o.optimizer, net_.parameters());
  if (net_.trained().empty()) fail(ErrorKind::kUsage, "{}: nothing is left to train", r_.name);
  if (r_.teacher) {
    Graph g = *r_.teacher;
    strip_training(g);
    end_in_logits(g);
    teacher_ = std::make_unique<TorchNetwork>(std::move(g), TorchNetworkOptions{.device = device_, .freeze = {"*"}});
  }
  if (o.ema > 0)
    for (const TorchNetwork::Parameter& p : net_.state()) average_.push_back(p.tensor.detach().clone());
  LoaderOptions l = o.loader;
  l.seed = o.seed;
  l.epochs = epochs();
  l.augment.random = true;
  loader_ = std::make_unique<Loader>(r_.data.train, l);
  total_steps_ = std::max<int64_t>((loader_->batches() + o.accumulate - 1) / o.accumulate * epochs(), 1);
  learning_rate(o.schedule, 0);  // names an unknown schedule before anything runs
}

void Trainer::check_data() {
  const Graph& g = net_.graph();
  if (g.inputs.size() != 1) fail(ErrorKind::kUsage, "{}: a network of {} inputs is not trained on a set of samples", r_.name, g.inputs.size());
  objective_ = Objective::make(r_.data.train->truth(), r_.data.description);
  const std::optional<Shape>& in = g[g.inputs[0]].shape;
  LoaderOptions& l = r_.options.loader;
  const Sample sample = r_.data.train->sample(0);
  if (!in || in->size() != static_cast<size_t>(sample.input.rank()) + 1)
    fail(ErrorKind::kInput, "{}: the network takes {}, samples are {}", r_.name, in ? to_string(*in) : "any rank", to_string(sample.input.shape()));
  if ((*in)[1] != kUnknownDim && (*in)[1] != sample.input.dim(0))
    fail(ErrorKind::kInput, "{}: the network takes {} channels, samples have {}", r_.name, (*in)[1], sample.input.dim(0));
  fit_to(*in, l.augment);
  objective_->check(r_.name, g, *r_.data.train, {.label_smoothing = r_.options.label_smoothing, .taught = r_.teacher ? at::zeros({}) : at::Tensor()}, l);
}

nlohmann::json Trainer::settings() const {
  const TrainOptions& o = r_.options;
  const LoaderOptions& l = o.loader;
  nlohmann::json j = {{"name", r_.name}, {"data", r_.data.description}, {"epochs", o.schedule.epochs}, {"batch", l.batch}, {"accumulate", o.accumulate}, {"optimizer", o.optimizer.name},
                      {"rate", o.schedule.rate}, {"schedule", o.schedule.name}, {"warm_up", o.schedule.warm_up}, {"weight_decay", o.optimizer.weight_decay}, {"momentum", o.optimizer.momentum}, {"clip", o.clip},
                      {"label_smoothing", o.label_smoothing}, {"mixup", l.mixup}, {"cutmix", l.cutmix}, {"ema", o.ema}, {"bf16", o.bf16}, {"conv_bn", name_of(o.conv_bn)}, {"freeze", o.freeze},
                      {"seed", o.seed}, {"device", o.device}, {"mean", l.mean}, {"std", l.std}, {"threads", o.threads}, {"teacher", teacher_ != nullptr}};
  if (!o.quantize.empty()) j["quantize"] = o.quantize;
  for (const auto& [key, value] : r_.notes) j[key] = value;
  return j;
}

PassState Trainer::pass(int64_t batch) const {
  const double all = static_cast<double>(loader_->batches() * epochs());
  return {.training = true, .batch_statistics = true, .progress = static_cast<double>(batch) / all,
          .generator = at::detail::createCPUGenerator(Random(r_.options.seed, static_cast<uint64_t>(batch), 0x7261696e).bits())};
}

Learnt Trainer::loss_of(const Batch& batch, const PassState& state) {
  const TrainOptions& o = r_.options;
  const at::Tensor inputs = to_torch(batch.inputs).to(device_);
  Tensors outputs;
  {
    const Autocast autocast(o.bf16, device_.type());
    outputs = net_.forward({inputs}, state);
  }
  LossOptions loss{.label_smoothing = o.label_smoothing, .taught = {}, .distill = o.distill, .temperature = o.temperature};
  if (teacher_) {
    const torch::NoGradGuard guard;
    loss.taught = teacher_->forward({inputs}, {})[0];
  }
  return objective_->loss(batch, outputs, loss);
}

void Trainer::step(double rate) {
  const TrainOptions& o = r_.options;
  const Tensors trained = net_.trained();
  if (o.accumulate > 1) {
    const torch::NoGradGuard guard;
    for (const at::Tensor& p : trained)
      if (p.grad().defined()) p.grad().div_(static_cast<double>(o.accumulate));
  }
  const double norm = clip_gradients(trained, o.clip);
  if (!std::isfinite(norm)) fail(ErrorKind::kInput, "the gradient is no number in step {}: try a smaller rate than {}", step_ + 1, rate);
  sums_.gradient += norm;
  ++sums_.steps;
  optimizer_->step(rate);
  ++step_;
  if (!average_.empty()) move_average();
}

void Trainer::move_average() {
  const torch::NoGradGuard guard;
  // The first steps count more than they will: the average of few is near the weights.
  const double decay = std::min(r_.options.ema, (1 + static_cast<double>(step_)) / (10 + static_cast<double>(step_)));
  Tensors now;
  for (const TorchNetwork::Parameter& p : net_.state()) now.push_back(p.tensor);
  // So that what does not move is its own average, to the bit.
  at::_foreach_add_(average_, at::_foreach_sub(now, average_), 1 - decay);
}

void Trainer::swap_average() {
  const torch::NoGradGuard guard;
  if (average_.empty()) return;
  size_t i = 0;
  for (const TorchNetwork::Parameter& p : net_.state()) {
    const at::Tensor now = p.tensor.clone();
    p.tensor.copy_(average_[i]);
    average_[i++].copy_(now);
  }
}

std::pair<double, double> Trainer::evaluate(const std::shared_ptr<const TrainingSet>& set) {
  const torch::NoGradGuard guard;
  Loader loader(set, once(r_.options.loader));
  const std::unique_ptr<Judgement> judgement = objective_->judgement();
  int64_t count = 0;
  double loss = 0;
  for (int64_t i = 0; i < loader.batches(); ++i) {
    const Batch batch = loader.next();
    const Tensors outputs = net_.forward({to_torch(batch.inputs).to(device_)}, {});
    judgement->add(batch, objective_->answers(outputs));
    const auto samples = static_cast<int64_t>(batch.samples.size());
    loss += objective_->loss(batch, outputs, {}).loss.item<double>() * static_cast<double>(samples);
    count += samples;
  }
  return {judgement->value(), loss / static_cast<double>(count)};
}

void Trainer::save(int64_t epoch, int64_t batch) {
  saved_ = Clock::now();
  if (r_.folder.empty()) return;
  Safetensors file;
  const auto put = [&](const std::string& name, const at::Tensor& t) { file.tensors[name] = from_torch(t); };
  size_t i = 0;
  for (const TorchNetwork::Parameter& p : net_.state()) {
    put("network/" + p.name, p.tensor);
    if (!average_.empty()) put("average/" + p.name, average_[i++]);
  }
  for (const auto& [name, tensor] : optimizer_->state()) put("optimizer/" + name, tensor);
  nlohmann::json records = nlohmann::json::array();
  for (const EpochRecord& r : records_) records.push_back(to_json(r, objective_->measure()));
  const nlohmann::json place = {{"epoch", epoch}, {"batch", batch}, {"step", step_}, {"first_loss", first_loss_}, {"records", records},
                                {"sums", {sums_.loss, sums_.gradient, sums_.judged, sums_.right, sums_.steps, sums_.batches}}};
  file.metadata = {{"place", place.dump()}, {"settings", settings().dump()}, {"format", "lathe checkpoint 1"}};
  write_safetensors(this->file("checkpoint.safetensors"), file);
}

void Trainer::restore() {
  const std::string path = file("checkpoint.safetensors");
  const Safetensors saved = read_safetensors(path);
  const auto told = [&](const char* key) {
    const auto found = saved.metadata.find(key);
    if (found == saved.metadata.end()) fail(ErrorKind::kInput, "{}: no checkpoint of lathe", path);
    return nlohmann::json::parse(found->second, nullptr, false);
  };
  const nlohmann::json then = told("settings"), now = settings();
  for (const auto& [key, value] : now.items())
    if (key != "threads" && key != "device" && (!then.contains(key) || then[key] != value))
      fail(ErrorKind::kUsage, "{} was made with {} {}, and now it is {}: give the same, or another folder", path, key, then.contains(key) ? then[key].dump() : "nothing", value.dump());
  const auto get = [&](const std::string& name, const at::Tensor& to) {
    const auto found = saved.tensors.find(name);
    if (found == saved.tensors.end()) fail(ErrorKind::kInput, "{}: no {}", path, name);
    const torch::NoGradGuard guard;
    const at::Tensor from = to_torch(found->second);
    if (from.sizes() != to.sizes()) fail(ErrorKind::kInput, "{}: {} is {}, the network's {}", path, name, to_string(from.sizes().vec()), to_string(to.sizes().vec()));
    to.copy_(from);
  };
  size_t i = 0;
  for (const TorchNetwork::Parameter& p : net_.state()) {
    get("network/" + p.name, p.tensor);
    if (!average_.empty()) get("average/" + p.name, average_[i++]);
  }
  std::map<std::string, at::Tensor> state;
  for (const auto& [name, tensor] : saved.tensors)
    if (name.starts_with("optimizer/")) state[name.substr(10)] = to_torch(tensor);
  try {
    const nlohmann::json place = told("place");
    step_ = place.at("step");
    first_epoch_ = place.at("epoch");
    first_batch_ = place.at("batch");
    first_loss_ = place.at("first_loss");
    const nlohmann::json& s = place.at("sums");
    sums_ = {s.at(0), s.at(1), s.at(2), s.at(3), s.at(4), s.at(5)};
    for (const nlohmann::json& r : place.at("records")) records_.push_back(epoch_record(r, objective_->measure()));
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::kInput, "{}: no checkpoint of lathe", path);
  }
  if (step_ < 0 || first_epoch_ < 0 || first_epoch_ > epochs() || first_batch_ < 0 || first_batch_ >= loader_->batches()) fail(ErrorKind::kInput, "{}: a place outside the training", path);
  optimizer_->restore(state, step_);
}

void Trainer::write_log() const {
  if (r_.folder.empty()) return;
  write_file(file("log.jsonl"), log_lines(settings(), records_, objective_->measure()));
  write_file(file("log.html"), log_page(settings(), records_, objective_->measure()));
}

void Trainer::epoch_done(int64_t epoch, double seconds) {
  EpochRecord r{.epoch = epoch};
  r.loss = sums_.loss / static_cast<double>(std::max<int64_t>(sums_.batches, 1));
  r.score = sums_.score();
  r.gradient_norm = sums_.gradient / static_cast<double>(std::max<int64_t>(sums_.steps, 1));
  r.learning_rate = rate_;
  r.seconds = seconds;
  r.waited = loader_->waited_seconds() - waited_before_;
  waited_before_ = loader_->waited_seconds();
  if (r_.data.validation->size() > 0) {
    swap_average();
    std::tie(r.validation_score, r.validation_loss) = evaluate(r_.data.validation);
    swap_average();
  }
  records_.push_back(r);
  report(epoch, loader_->batches(), true);
  sums_ = {};
}

void Trainer::report(int64_t epoch, int64_t batch, bool done) {
  if (!progress_) return;
  if (!done && since(reported_) < 0.1) return;
  reported_ = Clock::now();
  TrainProgress p{.epoch = epoch, .epochs = epochs(), .batch = batch, .batches = loader_->batches(), .learning_rate = rate_, .epoch_done = done};
  p.loss = sums_.loss / static_cast<double>(std::max<int64_t>(sums_.batches, 1));
  p.measure = objective_->measure();
  p.score = sums_.score();
  p.seconds = since(start_);
  if (step_ > start_step_) p.seconds_left = p.seconds / static_cast<double>(step_ - start_step_) * static_cast<double>(total_steps_ - step_);
  if (done && !records_.empty()) p.validation_score = records_.back().validation_score;
  progress_(p);
}

Graph Trainer::deployed() {
  Graph g = r_.network;
  // Parameters are those of the prepared graph by name; folding may have made others.
  if (r_.options.conv_bn == ConvBnMode::kDeploy) fold_batch_norm(g);
  remove_dead(g);
  net_.write_back(g);
  objective_->deploy(g);
  if (!r_.options.quantize.empty())
    for (std::string& notice : finish_quantization(g)) notices_.push_back(std::move(notice));
  return g;
}

// The network as a file, how it wants its pictures, the names of its classes, and its score as the engine runs it.
void Trainer::finish(TrainResult& result) const {
  const LoaderOptions& l = r_.options.loader;
  const std::string bytes = onnx_bytes(result.network, {{"lathe.trained", settings().dump()}});
  if (r_.data.test->size() > 0) result.test_score = engine_score(import_onnx_bytes(bytes).graph, r_.data.test, l, r_.options.threads);
  if (r_.folder.empty()) return;
  write_file(file("model.onnx"), bytes);
  const Shape in = *result.network[result.network.inputs[0]].shape;
  if (in.size() == 4 && in[1] == 3) {
    Preprocess p = Preprocess::stretch(static_cast<int>(l.augment.width), static_cast<int>(l.augment.height));
    for (size_t c = 0; c < 3; ++c) {
      p.mean[c] = l.mean[l.mean.size() == 1 ? 0 : c];
      p.std[c] = l.std[l.std.size() == 1 ? 0 : c];
    }
    p.scale = l.scale;
    p.write(Preprocess::path_beside(file("model.onnx")));
  }
  write_file(labels_beside(file("model.onnx")), fmt::format("{}\n", fmt::join(r_.data.train->classes(), "\n")));
  const std::string measure = objective_->measure();
  nlohmann::json j = {{"settings", settings()}, {"epochs", records_.size()}, {"measure", measure}, {"test_" + measure, nullptr}, {"torch_test_" + measure, nullptr}, {"test_samples", r_.data.test->size()},
                      {"seconds", since(start_)}};
  if (result.test_score >= 0) j["test_" + measure] = result.test_score, j["torch_test_" + measure] = result.torch_score;
  if (!records_.empty()) j["last_epoch"] = to_json(records_.back(), measure);
  write_file(file("result.json"), j.dump(2) + "\n");
}

TrainResult Trainer::run() {
  const TrainOptions& o = r_.options;
  at::set_num_threads(o.threads);
  if (o.resume) restore();
  loader_->seek(first_epoch_, first_batch_);
  start_step_ = step_;
  TrainResult result;
  result.measure = objective_->measure();
  const int64_t batches = loader_->batches();
  bool stopped = false;
  for (int64_t epoch = first_epoch_; epoch < epochs() && !stopped; ++epoch) {
    const Clock::time_point begin = Clock::now();
    for (int64_t b = epoch == first_epoch_ ? first_batch_ : 0; b < batches; ++b) {
      const bool last_of_step = (b + 1) % o.accumulate == 0 || b + 1 == batches;
      if (b % o.accumulate == 0 && (stop_.stop_requested() || (o.most_steps > 0 && step_ >= o.most_steps))) {
        save(epoch, b);
        stopped = true;
        break;
      }
      if (b % o.accumulate == 0 && since(saved_) >= o.checkpoint_seconds) save(epoch, b);
      const Batch batch = loader_->next();
      rate_ = learning_rate(o.schedule, static_cast<double>(epoch) + static_cast<double>(b) / static_cast<double>(batches));
      const Learnt learnt = loss_of(batch, pass(epoch * batches + b));
      const auto value = learnt.loss.item<double>();
      if (first_loss_ < 0) first_loss_ = value;
      if (!std::isfinite(value) || value > kDivergence * std::max(first_loss_, 1.0))
        fail(ErrorKind::kInput, "the loss is {} in epoch {}, batch {} (it began at {:.3g}): training diverges at a rate of {:.3g}; {}", value, epoch + 1, b + 1, first_loss_, rate_,
             r_.folder.empty() ? "try a smaller one" : "the last good state is in " + file("checkpoint.safetensors"));
      learnt.loss.backward();
      sums_.loss += value;
      ++sums_.batches;
      sums_.judged += learnt.judged;
      sums_.right += learnt.right;
      if (last_of_step) step(rate_);
      report(epoch, b + 1, false);
    }
    if (stopped) break;
    epoch_done(epoch, since(begin));
    save(epoch + 1, 0);
    write_log();
  }
  result.stopped = stopped;
  result.samples = (step_ - start_step_) * o.loader.batch * o.accumulate;
  result.waited = loader_->waited_seconds();
  swap_average();
  if (!stopped && r_.data.test->size() > 0) result.torch_score = evaluate(r_.data.test).first;
  result.network = deployed();
  result.notices = notices_;
  swap_average();
  if (!stopped) finish(result);
  result.epochs = records_;
  result.seconds = since(start_);
  return result;
}

}  // namespace

LoaderOptions once(LoaderOptions l) {
  l.shuffle = l.drop_last = false;
  l.mixup = l.cutmix = 0;
  l.augment.random = false;
  l.epochs = 1;
  return l;
}

double engine_score(const Graph& network, std::shared_ptr<const TrainingSet> set, const LoaderOptions& loader, int threads) {
  CompiledModel model(network, {.threads = threads});
  const std::unique_ptr<Judgement> judgement = Objective::make(set->truth())->judgement();
  Loader samples(std::move(set), once(loader));
  for (int64_t i = 0; i < samples.batches(); ++i) {
    const Batch batch = samples.next();
    judgement->add(batch, model.run(std::vector<Tensor>{batch.inputs}));
  }
  return judgement->value();
}

TrainResult train(TrainRequest request, const std::function<void(const TrainProgress&)>& progress, std::stop_token stop) {
  const ThreadScope threads(request.options.threads);
  const std::string folder = request.folder;
  if (!folder.empty()) std::filesystem::create_directories(folder);
  Trainer trainer(std::move(request), progress, std::move(stop));
  return trainer.run();
}

}  // namespace lathe
