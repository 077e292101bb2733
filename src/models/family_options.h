// A family's own options (BuildOptions::more), read and checked. What is not allowed throws kUsage naming the option.
//
//   const FamilyOptions set("poolformer_s12", o);
//   const std::string norm = set.choice("norm", "group", {"group", "layer"});
#pragma once

#include <algorithm>
#include <charconv>

#include "models/models.h"

namespace lathe {

class FamilyOptions {
 public:
  FamilyOptions(std::string model, const BuildOptions& options) : model_(std::move(model)), given_(options.more) {}

  bool has(const std::string& key) const { return given_.contains(key); }
  std::string text(const std::string& key, const std::string& otherwise) const { return has(key) ? given_.at(key) : otherwise; }

  std::string choice(const std::string& key, const std::string& otherwise, const std::vector<std::string>& allowed) const {
    std::string chosen = text(key, otherwise);
    if (std::find(allowed.begin(), allowed.end(), chosen) == allowed.end())
      refuse(key, fmt::format("is none of {}", fmt::join(allowed, ", ")));
    return chosen;
  }
  bool flag(const std::string& key, bool otherwise) const { return choice(key, otherwise ? "1" : "0", {"0", "1"}) == "1"; }
  double number(const std::string& key, double otherwise, double lowest, double highest) const {
    if (!has(key)) return otherwise;
    const std::string& value = given_.at(key);
    double x = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), x);
    if (error != std::errc() || end != value.data() + value.size() || !(x >= lowest && x <= highest))
      refuse(key, fmt::format("is no number of {} to {}", lowest, highest));
    return x;
  }
  // `count` whole numbers of `lowest` to `highest`, with commas between them.
  std::vector<int64_t> integers(const std::string& key, std::vector<int64_t> otherwise, size_t count, int64_t lowest, int64_t highest = 1 << 20) const {
    if (!has(key)) return otherwise;
    const std::string& value = given_.at(key);
    std::vector<int64_t> list;
    const char *at = value.data(), *end = at + value.size();
    for (bool more = true; more;) {
      int64_t x = 0;
      const auto [rest, error] = std::from_chars(at, end, x);
      if (error != std::errc() || x < lowest || x > highest)
        refuse(key, fmt::format("is not {} numbers of {} to {} with commas between them", count, lowest, highest));
      list.push_back(x);
      more = rest != end && *rest == ',';
      at = rest + more;
      if (!more && rest != end) refuse(key, fmt::format("is not {} numbers with commas between them", count));
    }
    if (list.size() != count) refuse(key, fmt::format("is not {} numbers with commas between them", count));
    return list;
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    fail(ErrorKind::kUsage, "{}: {}{} {}", model_, key, has(key) ? "=" + given_.at(key) : "", why);
  }

 private:
  std::string model_;
  const std::map<std::string, std::string>& given_;
};

// How the papers of transformers draw weights: normal with a deviation of 0.02, which suits their hundreds of channels. Networks of tens
// of channels begin with branches that hardly count then, and learn slowly; init=xavier (Glorot and Bengio 2010, equation 16) keeps the
// scale of activations and gradients whatever the width.
inline const std::string kInitOption = "init: of weights, truncated (a deviation of 0.02, as published) or xavier (for networks of few channels)";
inline Init transformer_init(const FamilyOptions& set) {
  const bool xavier = set.choice("init", "truncated", {"truncated", "xavier"}) == "xavier";
  return xavier ? Init{Init::Kind::kXavierUniform} : Init::truncated(0.02);
}

// Depths and widths of the stages as asked for, else the published ones: as many as there are stages. Channels times
// BuildOptions::width are multiples of 8 (make_divisible).
struct Stages {
  std::vector<int64_t> depths, widths;
  size_t count() const { return depths.size(); }
  int64_t blocks() const {
    int64_t all = 0;
    for (int64_t d : depths) all += d;
    return all;
  }
};
inline Stages stages_of(const std::string& model, const BuildOptions& o, const std::vector<int64_t>& depths,
                        const std::vector<int64_t>& widths) {
  Stages s{o.depths.empty() ? depths : o.depths, o.widths.empty() ? widths : o.widths};
  if (s.depths.size() != s.widths.size())
    fail(ErrorKind::kUsage, "{}: depths {} name {} stages and widths {} name {}", model, fmt::join(s.depths, ","), s.depths.size(),
         fmt::join(s.widths, ","), s.widths.size());
  if (o.width != 1)
    for (int64_t& w : s.widths) w = make_divisible(static_cast<double>(w) * o.width);
  return s;
}

}  // namespace lathe
