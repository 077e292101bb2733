// The model families, each written once as Graph builders (families/NAME.cpp, which read like the papers' tables). One
// definition serves training, deployment, search and hardware.
//
//   Graph g = build_model("resnet18", {.classes = 10});
//   for (const ModelEntry& m : all_models()) check_model_counts(m);
#pragma once

#include "models/builder.h"

namespace lathe {

struct ModelCounts {
  int64_t parameters = 0;  // trained
  int64_t frozen = 0;      // constants of the network that are not
  int64_t macs = 0;        // of convolutions and products, one sample
};

// Another form of a network whose counts are known.
struct ModelVariant {
  std::string what;  // "384²", "21,841 classes"
  BuildOptions options;
  ModelCounts counts;
};

struct ModelEntry {
  std::string name = {};     // "caformer_s18"
  std::string family = {};   // the key of its method, or "standard"
  std::string source = {};   // "Yu et al. 2022, MetaFormer Is Actually What You Need for Vision"
  Shape input = {};          // published, without the batch
  int64_t classes = 1000;
  ModelCounts counts;   // as other programs count them, to the integer
  // As the paper prints them, "11.9M", "1.8G"; empty where it prints none.
  std::string published_parameters = {}, published_macs = {};
  std::string published_accuracy = {};  // "77.2 %"
  // Why a published figure is not what is counted, where it is not: "without LayerScale". The figure is then not compared.
  std::string parameters_note = {}, macs_note = {};
  std::vector<std::string> options = {};  // keys of BuildOptions::more that it knows, each "KEY: what it does"
  bool frames_apart = false;  // a network of pictures that takes clips [C, T, H, W] as well, frame by frame
  std::vector<ModelVariant> variants = {};
  std::function<Graph(const BuildOptions&)> build = {};
};

const std::vector<ModelEntry>& all_models();
// Throws kUsage with the nearest names when there is none.
const ModelEntry& find_model(std::string_view name);
// With the published classes and input where `options` leaves them open. Throws kUsage naming an option that the family does not have.
Graph build_model(std::string_view name, const BuildOptions& options = {});
Graph build_model(const ModelEntry& model, BuildOptions options);

ModelCounts count_model(const Graph& graph);

// What of a network's counts is not as told, one line each; nothing when all is. Weights are not drawn.
struct ModelCheck {
  ModelCounts counted;
  std::vector<std::string> wrong;
};
ModelCheck check_counts(const ModelEntry& model);

// Whether `counted` is `published` ("11.9M", "564M", "0.45B") within half a unit of its last digit.
bool rounds_to(int64_t counted, const std::string& published);

}  // namespace lathe
