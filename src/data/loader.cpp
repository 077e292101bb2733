#include "data/loader.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <thread>

namespace lathe {
namespace {

// Streams of random numbers beside those of the samples.
enum Stream : uint64_t { kSampleStream = 1, kBatchStream, kOrderStream };
constexpr int64_t kMaxThreads = 256;

using Order = std::shared_ptr<const std::vector<size_t>>;

// What becomes of each value of a u8 pixel, by channel; one table where all channels are alike.
using Tables = std::vector<std::array<float, 256>>;

float of_channel(const std::vector<float>& values, size_t c) { return values.size() == 1 ? values[0] : values[c]; }

Tables tables_of(const LoaderOptions& o) {
  Tables tables(std::max(o.mean.size(), o.std.size()));
  for (size_t c = 0; c < tables.size(); ++c)
    for (size_t v = 0; v < 256; ++v) tables[c][v] = (static_cast<float>(v) * o.scale - of_channel(o.mean, c)) / of_channel(o.std, c);
  return tables;
}

// u8 [C, …] or f32 → f32 at `to`: (value · scale − mean) / std by channel.
void normalize(const Tensor& in, const LoaderOptions& o, const Tables& tables, float* to) {
  const auto channels = static_cast<size_t>(in.dim(0));
  const int64_t plane = in.size() / std::max<int64_t>(in.dim(0), 1);
  for (size_t c = 0; c < channels; ++c, to += plane) {
    if (in.dtype() == DType::kU8) {
      const std::array<float, 256>& table = tables[tables.size() == 1 ? 0 : c];
      const uint8_t* from = in.data<uint8_t>() + static_cast<int64_t>(c) * plane;
      for (int64_t i = 0; i < plane; ++i) to[i] = table[from[i]];
    } else {
      const float mean = of_channel(o.mean, c), std = of_channel(o.std, c);
      const float* from = in.data<float>() + static_cast<int64_t>(c) * plane;
      for (int64_t i = 0; i < plane; ++i) to[i] = (from[i] - mean) / std;
    }
  }
}

}  // namespace

struct Loader::State {
  std::shared_ptr<const TrainingSet> set;
  LoaderOptions options;
  Tables tables;
  int64_t batches = 0;

  std::mutex mutex;
  std::condition_variable work, ready;
  // All of these under the mutex. Batches are counted over the epochs: epoch · batches + index.
  int64_t to_make = 0, to_give = 0;
  uint64_t generation = 0;  // of seek(): what an earlier one asked for is thrown away
  bool stop = false;
  struct Made {
    Batch batch;
    std::exception_ptr failure;
  };
  std::map<int64_t, Made> made;
  std::map<int64_t, Order> orders;  // by epoch
  double waited = 0;

  std::mutex kept_mutex;
  std::condition_variable decoded;
  std::set<size_t> decoding;  // an epoch's end and the next one's beginning may want the same sample at once
  std::vector<std::shared_ptr<const Sample>> kept;
  int64_t kept_bytes = 0;

  std::vector<std::thread> threads;

  int64_t end() const { return options.epochs > 0 ? options.epochs * batches : INT64_MAX; }

  Order order_of(int64_t epoch) {
    std::lock_guard lock(mutex);
    Order& order = orders[epoch];
    if (!order) {
      Random random(options.seed, static_cast<uint64_t>(epoch), 0, kOrderStream);
      order = std::make_shared<std::vector<size_t>>(random.permutation(set->size()));
      while (orders.size() > 4) {
        // The farthest from the one that is wanted now.
        auto first = orders.begin(), last = std::prev(orders.end());
        orders.erase(epoch - first->first >= last->first - epoch ? first : last);
      }
    }
    return orders.at(epoch);
  }

  Sample sample(size_t i) {
    if (set->in_memory()) return set->sample(i);
    {
      std::unique_lock lock(kept_mutex);
      decoded.wait(lock, [&] { return !decoding.contains(i); });
      if (kept[i]) return *kept[i];
      decoding.insert(i);
    }
    Sample s;
    std::exception_ptr failure;
    try {
      s = set->sample(i);
    } catch (...) {
      failure = std::current_exception();
    }
    {
      std::lock_guard lock(kept_mutex);
      decoding.erase(i);
      const int64_t bytes = failure ? 0 : static_cast<int64_t>(s.input.bytes() + (s.mask.defined() ? s.mask.bytes() : 0));
      if (!failure && kept_bytes + bytes <= options.kept_bytes) {
        kept_bytes += bytes;
        kept[i] = std::make_shared<const Sample>(s);
      }
    }
    decoded.notify_all();
    if (failure) std::rethrow_exception(failure);
    return s;
  }

  void mix(Batch& b) {
    Random random(options.seed, static_cast<uint64_t>(b.epoch), static_cast<uint64_t>(b.index), kBatchStream);
    b.soft_labels = one_hot(b.labels, static_cast<int64_t>(set->classes().size()));
    const bool cut = options.cutmix > 0 && (options.mixup <= 0 || random.chance(0.5));
    const double alpha = cut ? options.cutmix : options.mixup;
    const auto lambda = static_cast<float>(random.beta(alpha, alpha));
    if (cut) cutmix(b.inputs, b.soft_labels, lambda, random);
    else mixup(b.inputs, b.soft_labels, lambda);
  }

  Batch make(int64_t number) {
    Batch b;
    b.epoch = number / batches;
    b.index = number % batches;
    const auto first = static_cast<size_t>(b.index * options.batch),
               count = std::min(set->size() - first, static_cast<size_t>(options.batch));
    Order order = options.shuffle ? order_of(b.epoch) : nullptr;
    const auto n = static_cast<int64_t>(count);
    const TrainingTruth truth = set->truth();
    if (truth == TrainingTruth::kClass) b.labels = Tensor(DType::kI64, {n});
    Shape one, mask;
    for (size_t k = 0; k < count; ++k) {
      const size_t i = order ? (*order)[first + k] : first + k;
      b.samples.push_back(i);
      Sample s = sample(i);
      Random random(options.seed, static_cast<uint64_t>(b.epoch), i, kSampleStream);
      augment(s, options.augment, random);
      if (k == 0) {
        one = s.input.shape();
        for (const auto* v : {&options.mean, &options.std})
          if (v->size() != 1 && static_cast<int64_t>(v->size()) != one[0])
            fail(ErrorKind::kInput, "{} has {} channels, mean and std are given for {}", set->name(i), one[0], v->size());
        Shape all = one;
        all.insert(all.begin(), n);
        b.inputs = Tensor(DType::kF32, all);
      }
      if (s.input.shape() != one)
        fail(ErrorKind::kInput, "{} has shape {}, {} before it {}: say the size that samples are brought to", set->name(i),
             to_string(s.input.shape()), set->name(b.samples[0]), to_string(one));
      normalize(s.input, options, tables, b.inputs.data<float>() + static_cast<int64_t>(k) * s.input.size());
      if (truth == TrainingTruth::kClass) {
        if (s.label < 0 || s.label >= static_cast<int64_t>(set->classes().size()))
          fail(ErrorKind::kInput, "{} has class {}, the set {} classes", set->name(i), s.label, set->classes().size());
        b.labels.data<int64_t>()[k] = s.label;
      } else if (truth == TrainingTruth::kBoxes) {
        b.boxes.push_back(std::move(s.boxes));
      } else {
        if (k == 0) {
          mask = s.mask.shape();
          b.masks = Tensor(DType::kU8, {n, mask.at(0), mask.at(1)});
        }
        std::memcpy(b.masks.data<uint8_t>() + static_cast<int64_t>(k) * s.mask.size(), s.mask.raw(), s.mask.bytes());
      }
    }
    if (options.mixup > 0 || options.cutmix > 0) mix(b);
    return b;
  }

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      work.wait(lock, [&] { return stop || (to_make < to_give + options.ahead && to_make < end()); });
      if (stop) return;
      const int64_t number = to_make++;
      const uint64_t asked = generation;
      lock.unlock();
      Made result;
      try {
        result.batch = make(number);
      } catch (...) {
        result.failure = std::current_exception();
      }
      lock.lock();
      if (asked != generation) continue;
      made.emplace(number, std::move(result));
      ready.notify_all();
    }
  }
};

Loader::Loader(std::shared_ptr<const TrainingSet> set, const LoaderOptions& options) : state_(std::make_unique<State>()) {
  auto refuse = [](bool condition, const char* what) {
    if (condition) fail(ErrorKind::kUsage, "loader: {}", what);
  };
  refuse(options.batch < 1, "a batch holds at least one sample");
  refuse(options.threads < 0 || options.threads > kMaxThreads, "threads are 0 to 256");
  refuse(options.ahead < 1, "at least one batch is made ahead");
  refuse(options.epochs < 0, "epochs must not be negative");
  refuse(options.mean.empty() || options.std.empty(), "mean and std are one number or one for each channel");
  refuse(std::find(options.std.begin(), options.std.end(), 0.0f) != options.std.end(), "std must not be 0");
  refuse(options.mean.size() != 1 && options.std.size() != 1 && options.mean.size() != options.std.size(),
         "mean and std are for different numbers of channels");
  refuse(!(options.mixup >= 0 && options.cutmix >= 0), "mixup and cutmix take an α of 0 or more");
  if (!set || set->size() == 0) fail(ErrorKind::kInput, "loader: the part of the data is empty");
  refuse((options.mixup > 0 || options.cutmix > 0) && set->truth() != TrainingTruth::kClass,
         "mixup and cutmix are for samples with classes");
  State& s = *state_;
  s.set = std::move(set);
  s.options = options;
  s.tables = tables_of(options);
  const auto size = static_cast<int64_t>(s.set->size());
  s.batches = std::max<int64_t>(options.drop_last ? size / options.batch : (size + options.batch - 1) / options.batch, 1);
  if (!s.set->in_memory()) s.kept.resize(s.set->size());
  check_augment(options.augment, s.sample(0), s.set->truth());
  for (int i = 0; i < options.threads; ++i) s.threads.emplace_back([&s] { s.run(); });
}

Loader::~Loader() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->work.notify_all();
  for (std::thread& t : state_->threads) t.join();
}

int64_t Loader::batches() const { return state_->batches; }
const TrainingSet& Loader::set() const { return *state_->set; }

Batch Loader::next() {
  State& s = *state_;
  const auto begin = std::chrono::steady_clock::now();
  auto count_wait = [&] { s.waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  std::unique_lock lock(s.mutex);
  if (s.to_give >= s.end()) fail(ErrorKind::kUsage, "loader: all {} epochs were given", s.options.epochs);
  const int64_t number = s.to_give;
  if (s.threads.empty()) {
    ++s.to_give;
    lock.unlock();
    Batch b = s.make(number);
    count_wait();
    return b;
  }
  s.ready.wait(lock, [&] { return s.made.contains(number); });
  State::Made made = std::move(s.made.extract(number).mapped());
  ++s.to_give;
  count_wait();
  lock.unlock();
  s.work.notify_all();
  if (made.failure) std::rethrow_exception(made.failure);
  return std::move(made.batch);
}

void Loader::seek(int64_t epoch, int64_t batch) {
  State& s = *state_;
  if (epoch < 0 || batch < 0 || batch >= s.batches)
    fail(ErrorKind::kUsage, "loader: there is no batch {} of epoch {}; an epoch has {}", batch, epoch, s.batches);
  {
    std::lock_guard lock(s.mutex);
    const int64_t number = epoch * s.batches + batch;
    if (number == s.to_give) return;  // what waits is what is wanted
    s.to_give = s.to_make = number;
    s.made.clear();
    ++s.generation;
  }
  s.work.notify_all();
}

double Loader::waited_seconds() const {
  std::lock_guard lock(state_->mutex);
  return state_->waited;
}

}  // namespace lathe
