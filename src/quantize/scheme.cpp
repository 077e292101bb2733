#include <fmt/format.h>

#include <cmath>

#include "core/text.h"
#include "quantize/quantize.h"

namespace lathe {
namespace {

constexpr std::pair<std::string_view, Rounding> kRoundings[] = {
    {"nearest", Rounding::kNearest}, {"adaround", Rounding::kAdaRound}, {"gptq", Rounding::kGptq}, {"awq", Rounding::kAwq}};

[[noreturn]] void wrong(std::string_view text, std::string_view word) {
  fail(ErrorKind::kUsage, "scheme \"{}\": \"{}\" is not known; words are w:QUANTIZER[,adaround|gptq|awq] (or w:float), a:uint8|int8[,CALIBRATION], relu, equalize, bias, everywhere, smooth[=0.5], "
       "ends:QUANTIZER or ends:same, float:first, float:last, seed=N", text, word);
}

}  // namespace

Scheme default_scheme() { return parse_scheme("w:int8,gptq a:uint8,mse bias"); }

Scheme parse_scheme(std::string_view text) {
  Scheme scheme;
  bool any = false, same_ends = false;
  for (std::string_view word : words_of(text, ' ')) {
    any = true;
    auto number = [&](std::string_view digits, double least, double most) {
      const std::string copy(digits);
      char* end = nullptr;
      const double value = std::strtod(copy.c_str(), &end);
      if (copy.empty() || *end != 0 || !(value >= least && value <= most)) wrong(text, word);
      return value;
    };
    if (word == "w:float") {
      scheme.weights.reset();
    } else if (word.starts_with("w:")) {
      std::string quantizer;
      for (std::string_view part : words_of(word.substr(2), ',')) {
        bool rounding = false;
        for (const auto& [name, value] : kRoundings)
          if (part == name) scheme.rounding = value, rounding = true;
        if (!rounding) quantizer += (quantizer.empty() ? "" : ",") + std::string(part);
      }
      scheme.weights = parse_quantizer(quantizer);
    } else if (word.starts_with("a:")) {
      ActivationScheme a;
      const auto parts = words_of(word.substr(2), ',');
      if (parts.empty() || parts.size() > 2 || (parts[0] != "uint8" && parts[0] != "int8")) wrong(text, word);
      a.symmetric = parts[0] == "int8";
      if (parts.size() == 2) a.range = parse_range(parts[1]);
      scheme.activations = a;
    } else if (word == "equalize") {
      scheme.equalize = true;
    } else if (word == "relu") {
      scheme.relu = true;
    } else if (word == "bias") {
      scheme.correct_bias = true;
    } else if (word == "everywhere") {
      scheme.everywhere = true;
    } else if (word == "smooth") {
      scheme.smooth = 0.5;
    } else if (word.starts_with("smooth=")) {
      scheme.smooth = number(word.substr(7), 0, 1);
    } else if (word == "ends:same") {
      same_ends = true;
    } else if (word.starts_with("ends:")) {
      scheme.first_and_last = parse_quantizer(word.substr(5));
    } else if (word == "float:first") {
      scheme.skip_first = true;
    } else if (word == "float:last") {
      scheme.skip_last = true;
    } else if (word.starts_with("seed=")) {
      scheme.seed = static_cast<uint64_t>(number(word.substr(5), 0, 1e15));
    } else {
      wrong(text, word);
    }
  }
  if (!any) wrong(text, "");
  // The first and the last layer lose most and hold little: 8 bits, unless something else is asked for.
  if (scheme.weights && scheme.weights->bits < 8 && !scheme.first_and_last && !same_ends) scheme.first_and_last = QuantizerSpec{};
  if (!scheme.weights && !scheme.activations && scheme.layers.empty()) fail(ErrorKind::kUsage, "scheme \"{}\" quantizes nothing", text);
  return scheme;
}

std::string Scheme::text() const {
  std::string s = "w:" + (weights ? weights->text() : std::string("float"));
  for (const auto& [name, value] : kRoundings)
    if (value == rounding && rounding != Rounding::kNearest) s += fmt::format(",{}", name);
  if (activations) s += fmt::format(" a:{},{}", activations->symmetric ? "int8" : "uint8", activations->range.text());
  if (relu) s += " relu";
  if (equalize) s += " equalize";
  if (correct_bias) s += " bias";
  if (everywhere) s += " everywhere";
  if (smooth) s += fmt::format(" smooth={:g}", *smooth);
  if (weights && weights->bits < 8 && !first_and_last) s += " ends:same";
  if (first_and_last) s += " ends:" + first_and_last->text();
  if (skip_first) s += " float:first";
  if (skip_last) s += " float:last";
  if (seed != 1) s += fmt::format(" seed={}", seed);
  return s;
}

}  // namespace lathe
