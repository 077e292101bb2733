// Classifies a picture-like tensor and prints the best classes.
//
//   classify MODEL.onnx [PIXELS.raw]
//
// PIXELS.raw holds the floats of the network's input; without it a smooth pattern stands in for a picture.
#include <lathe/network.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <numeric>

namespace {

// A picture of soft stripes, in the customary range of a normalized input.
std::vector<float> pattern(int64_t size) {
  std::vector<float> pixels(size);
  for (int64_t i = 0; i < size; ++i) pixels[i] = std::sin(0.013f * static_cast<float>(i));
  return pixels;
}

std::vector<float> read_floats(const char* path, int64_t size) {
  std::vector<float> values(size);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(size * sizeof(float)));
  if (!file || file.peek() != EOF) throw std::runtime_error(std::string(path) + ": does not hold exactly the network's input");
  return values;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: classify MODEL.onnx [PIXELS.raw]\n");
    return 2;
  }
  try {
    lathe::Network network = lathe::Network::open(argv[1]);
    lathe::Runner runner = network.compile({.batch = 1});
    const lathe::TensorInfo& input = runner.inputs().at(0);
    std::vector<int64_t> shape = input.shape;
    for (int64_t& dim : shape) dim = dim < 0 ? 1 : dim;
    int64_t size = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());

    // The pixels are read where they lie; the scores lie in lathe's memory until the next run.
    std::vector<float> pixels = argc > 2 ? read_floats(argv[2], size) : pattern(size);
    auto outputs = runner.run({{input.name, lathe::TensorView::of(pixels.data(), shape)}});
    const lathe::TensorView& scores = outputs.at(runner.outputs().at(0).name);
    const float* score = scores.as<float>();
    if (!score) throw std::runtime_error("the scores are not floats");

    std::vector<int64_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    size_t best = std::min<size_t>(3, order.size());
    std::partial_sort(order.begin(), order.begin() + best, order.end(), [&](int64_t a, int64_t b) { return score[a] > score[b]; });
    for (size_t i = 0; i < best; ++i) std::printf("class %4d  score %.5f\n", static_cast<int>(order[i]), score[order[i]]);
    return 0;
  } catch (const lathe::Error& e) {
    std::fprintf(stderr, "classify: lathe: %s\n", e.what());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "classify: %s\n", e.what());
  }
  return 1;
}
