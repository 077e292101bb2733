#include <algorithm>
#include <cctype>
#include <cmath>

#include "kernels/reference/access.h"
#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Activation {
  double (*function)(double x, double alpha, double beta);
  double alpha = 0, beta = 0;
  double operator()(double x) const { return function(x, alpha, beta); }
};

struct ActivationKind {
  const char* name;
  double (*function)(double, double, double);
  bool takes_alpha, takes_beta;
  double alpha, beta;  // defaults
};

const ActivationKind kActivations[] = {
    {"relu", [](double x, double, double) { return std::max(x, 0.0); }, false, false, 0, 0},
    {"tanh", [](double x, double, double) { return std::tanh(x); }, false, false, 0, 0},
    {"sigmoid", [](double x, double, double) { return sigmoid(x); }, false, false, 0, 0},
    {"affine", [](double x, double a, double b) { return a * x + b; }, true, true, 1, 0},
    {"leakyrelu", [](double x, double a, double) { return x < 0 ? a * x : x; }, true, false, 0.01, 0},
    {"thresholdedrelu", [](double x, double a, double) { return x > a ? x : 0.0; }, true, false, 1, 0},
    {"scaledtanh", [](double x, double a, double b) { return a * std::tanh(b * x); }, true, true, 1, 1},
    {"hardsigmoid", [](double x, double a, double b) { return std::min(std::max(a * x + b, 0.0), 1.0); }, true, true,
     0.2, 0.5},
    {"elu", [](double x, double a, double) { return x < 0 ? a * std::expm1(x) : x; }, true, false, 1, 0},
    {"softsign", [](double x, double, double) { return x / (1 + std::fabs(x)); }, false, false, 0, 0},
    {"softplus", [](double x, double, double) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); },
     false, false, 0, 0},
};

// The activations of all directions, `defaults` for each direction where the node names none. Those with
// parameters take the next ones of activation_alpha and activation_beta.
std::vector<Activation> activations_of(const Node& node, std::vector<std::string> defaults, int64_t directions) {
  const auto* given = node.has("activations")
                          ? &std::get<std::vector<std::string>>(node.attributes.find("activations")->second)
                          : nullptr;
  std::vector<std::string> names;
  if (given && !given->empty()) {
    names = *given;
    check_model(names.size() == defaults.size() * static_cast<size_t>(directions), "{} activations are named, expected {}",
                names.size(), defaults.size() * static_cast<size_t>(directions));
  } else {
    for (int64_t d = 0; d < directions; ++d) names.insert(names.end(), defaults.begin(), defaults.end());
  }
  const std::vector<float>&alphas = node.get_floats("activation_alpha"), &betas = node.get_floats("activation_beta");
  size_t next_alpha = 0, next_beta = 0;
  std::vector<Activation> result;
  for (const std::string& name : names) {
    std::string lower;
    for (char ch : name) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(ch)));
    const auto* kind = std::find_if(std::begin(kActivations), std::end(kActivations),
                                    [&](const ActivationKind& k) { return lower == k.name; });
    if (kind == std::end(kActivations)) fail(ErrorKind::kUnsupported, "activation '{}' is not supported", name);
    Activation a{kind->function, kind->alpha, kind->beta};
    if (kind->takes_alpha && next_alpha < alphas.size()) a.alpha = alphas[next_alpha++];
    if (kind->takes_beta && next_beta < betas.size()) a.beta = betas[next_beta++];
    result.push_back(a);
  }
  return result;
}

// One direction's weights and what a step needs; `gates` rows of `hidden` units in W, R and B.
struct Cell {
  int64_t hidden, width, gates;
  const double *w, *r;     // [gates·hidden, width], [gates·hidden, hidden]
  const double* bias;      // [2·gates·hidden]: of W, then of R; null: zeros
  const double* peephole;  // [3·hidden]; null: zeros
  const Activation* activation;
  double clip;

  double input(int64_t row, const double* x) const {
    double sum = bias ? bias[row] : 0;
    for (int64_t i = 0; i < width; ++i) sum += w[row * width + i] * x[i];
    return sum;
  }
  double recurrent(int64_t row, const double* h) const {
    double sum = bias ? bias[gates * hidden + row] : 0;
    for (int64_t i = 0; i < hidden; ++i) sum += r[row * hidden + i] * h[i];
    return sum;
  }
  double clipped(double x) const { return clip > 0 ? std::min(std::max(x, -clip), clip) : x; }
};

using State = std::vector<double>;

// Runs step(cell, x, h, c) over every sequence in every direction; h and c are updated in place.
template <class Step>
void run(Context& c, int64_t gates, int64_t states, const std::vector<std::string>& default_activations, Step step) {
  const Node& node = c.node();
  std::vector<Tensor*> outputs;  // allocated first: this also checks all shapes
  for (size_t i = 0; i < 1 + static_cast<size_t>(states); ++i)
    outputs.push_back(c.has_output(i) ? &c.output(i) : nullptr);
  const Tensor& x = c.input(0);
  bool batch_first = node.get_int("layout") != 0;
  const std::string& direction = node.get_string("direction");
  int64_t directions = direction == "bidirectional" ? 2 : 1;
  int64_t length = x.dim(batch_first ? 1 : 0), batch = x.dim(batch_first ? 0 : 1), width = x.dim(2);
  int64_t hidden = c.input(2).dim(2), rows = gates * hidden;
  std::vector<Activation> activations = activations_of(node, default_activations, directions);
  std::vector<double> xs = doubles(x), w = doubles(c.input(1)), r = doubles(c.input(2)), bias, peephole, initial[2];
  if (c.has_input(3)) bias = doubles(c.input(3));
  if (c.has_input(7)) peephole = doubles(c.input(7));
  for (int64_t s = 0; s < states; ++s)
    if (c.has_input(5 + s)) initial[s] = doubles(c.input(5 + s));
  if (outputs[0])
    for (int64_t i = 0; i < outputs[0]->size(); ++i) outputs[0]->set(i, 0.0);
  for (int64_t d = 0; d < directions; ++d) {
    Cell cell{hidden, width, gates, w.data() + d * rows * width, r.data() + d * rows * hidden,
              bias.empty() ? nullptr : bias.data() + d * 2 * rows,
              peephole.empty() ? nullptr : peephole.data() + d * 3 * hidden,
              activations.data() + d * static_cast<int64_t>(default_activations.size()), node.get_float("clip")};
    bool backwards = direction == "reverse" || d == 1;
    for (int64_t b = 0; b < batch; ++b) {
      int64_t steps = c.has_input(4) ? c.input(4).get_int(b) : length;
      if (steps < 0 || steps > length)
        fail(ErrorKind::kInput, "sequence length {} is out of range for {} steps", steps, length);
      int64_t at = (batch_first ? b * directions + d : d * batch + b) * hidden;
      State state[2] = {State(hidden, 0.0), State(hidden, 0.0)};
      for (int64_t s = 0; s < states; ++s)
        if (!initial[s].empty()) std::copy_n(initial[s].begin() + at, hidden, state[s].begin());
      for (int64_t t = 0; t < steps; ++t) {
        int64_t time = backwards ? steps - 1 - t : t;
        step(cell, xs.data() + (batch_first ? b * length + time : time * batch + b) * width, state[0], state[1]);
        if (!outputs[0]) continue;
        int64_t to = (batch_first ? (b * length + time) * directions + d : (time * directions + d) * batch + b) * hidden;
        for (int64_t i = 0; i < hidden; ++i) outputs[0]->set(to + i, state[0][i]);
      }
      for (int64_t s = 0; s < states; ++s)
        if (outputs[1 + s])
          for (int64_t i = 0; i < hidden; ++i) outputs[1 + s]->set(at + i, state[s][i]);
    }
  }
}

void rnn(Context& c) {
  run(c, 1, 1, {"Tanh"}, [](const Cell& cell, const double* x, State& h, State&) {
    State next(cell.hidden);
    for (int64_t i = 0; i < cell.hidden; ++i)
      next[i] = cell.activation[0](cell.clipped(cell.input(i, x) + cell.recurrent(i, h.data())));
    h = std::move(next);
  });
}

// Rows of gates: update z, reset r, candidate h.
template <bool kLinearBeforeReset>
void gru_step(const Cell& cell, const double* x, State& h, State&) {
  int64_t hidden = cell.hidden;
  State update(hidden), reset(hidden), gated(hidden), next(hidden);
  for (int64_t i = 0; i < hidden; ++i) {
    update[i] = cell.activation[0](cell.clipped(cell.input(i, x) + cell.recurrent(i, h.data())));
    reset[i] = cell.activation[0](cell.clipped(cell.input(hidden + i, x) + cell.recurrent(hidden + i, h.data())));
    gated[i] = reset[i] * h[i];
  }
  for (int64_t i = 0; i < hidden; ++i) {
    int64_t row = 2 * hidden + i;
    double past = kLinearBeforeReset ? reset[i] * cell.recurrent(row, h.data()) : cell.recurrent(row, gated.data());
    double candidate = cell.activation[1](cell.clipped(cell.input(row, x) + past));
    next[i] = (1 - update[i]) * candidate + update[i] * h[i];
  }
  h = std::move(next);
}

void gru(Context& c) {
  if (c.node().get_int("linear_before_reset") != 0) {
    run(c, 3, 1, {"Sigmoid", "Tanh"}, gru_step<true>);
  } else {
    run(c, 3, 1, {"Sigmoid", "Tanh"}, gru_step<false>);
  }
}

// Rows of gates: input i, output o, forget f, cell c; peepholes: i, o, f.
void lstm(Context& c) {
  bool coupled = c.node().get_int("input_forget") != 0;
  run(c, 4, 2, {"Sigmoid", "Tanh", "Tanh"}, [coupled](const Cell& cell, const double* x, State& h, State& memory) {
    int64_t hidden = cell.hidden;
    State next(hidden);
    for (int64_t i = 0; i < hidden; ++i) {
      auto sum = [&](int64_t gate) {
        return cell.input(gate * hidden + i, x) + cell.recurrent(gate * hidden + i, h.data());
      };
      auto peep = [&](int64_t gate, double value) {
        return cell.peephole ? cell.peephole[gate * hidden + i] * value : 0;
      };
      double in = cell.activation[0](cell.clipped(sum(0) + peep(0, memory[i])));
      double forget = coupled ? 1 - in : cell.activation[0](cell.clipped(sum(2) + peep(2, memory[i])));
      double fresh = cell.activation[1](cell.clipped(sum(3)));
      memory[i] = forget * memory[i] + in * fresh;
      double out = cell.activation[0](cell.clipped(sum(1) + peep(1, memory[i])));
      next[i] = out * cell.activation[2](memory[i]);
    }
    h = std::move(next);
  });
}

}  // namespace

void register_recurrent(Registry& r) {
  r.add("RNN", rnn);
  r.add("GRU", gru);
  r.add("LSTM", lstm);
}

}  // namespace lathe::reference
