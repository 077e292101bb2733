/* classify.cpp in C99: prints the best classes for a picture-like tensor.
 *
 *   classify_c MODEL.onnx */
#include <lathe/lathe.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { kMaxRank = 8, kBest = 3 };

static int failed(const char* what) {
  fprintf(stderr, "classify_c: %s: %s\n", what, lathe_last_error());
  return 1;
}

static int print_best(const lathe_tensor* scores) {
  const float* score = scores->data;
  int64_t size = 1, shown[kBest];
  for (size_t i = 0; i < scores->rank; ++i) size *= scores->shape[i];
  for (int rank = 0; rank < kBest && rank < size; ++rank) {
    int64_t best = -1;
    for (int64_t i = 0; i < size; ++i) {
      int taken = 0;
      for (int k = 0; k < rank; ++k) taken = taken || shown[k] == i;
      if (!taken && (best < 0 || score[i] > score[best])) best = i;
    }
    shown[rank] = best;
    printf("class %4d  score %.5f\n", (int)best, score[best]);
  }
  return 0;
}

static int classify(lathe_runner* runner, const lathe_tensor_info* input, const char* output) {
  int64_t shape[kMaxRank], size = 1;
  if (input->rank < 0 || input->rank > kMaxRank) return fprintf(stderr, "classify_c: an input of odd rank\n"), 1;
  for (int64_t i = 0; i < input->rank; ++i) size *= shape[i] = input->shape[i] < 0 ? 1 : input->shape[i];
  float* pixels = malloc((size_t)size * sizeof(float));
  if (!pixels) return fprintf(stderr, "classify_c: out of memory\n"), 1;
  for (int64_t i = 0; i < size; ++i) pixels[i] = sinf(0.013f * (float)i);

  lathe_tensor image = {LATHE_F32, (size_t)input->rank, shape, pixels}, scores;
  int result = 1;
  if (lathe_runner_set_input(runner, input->name, &image) != LATHE_OK) failed("input");
  else if (lathe_runner_run(runner) != LATHE_OK) failed("run");
  else if (lathe_runner_output(runner, output, &scores) != LATHE_OK) failed("output");
  else if (scores.dtype != LATHE_F32) fprintf(stderr, "classify_c: the scores are not floats\n");
  else result = print_best(&scores);
  free(pixels);
  return result;
}

int main(int argc, char** argv) {
  lathe_network* network = NULL;
  lathe_runner* runner = NULL;
  lathe_tensor_info input, output;
  lathe_options options;
  int result = 1;
  if (argc != 2) return fprintf(stderr, "usage: classify_c MODEL.onnx\n"), 2;
  lathe_options_init(&options);
  options.batch = 1;
  if (lathe_network_open(argv[1], &network) != LATHE_OK) failed("open");
  else if (lathe_network_compile(network, &options, &runner) != LATHE_OK) failed("compile");
  else if (lathe_network_input(network, 0, &input) != LATHE_OK) failed("input");
  else if (lathe_network_output(network, 0, &output) != LATHE_OK) failed("output");
  else result = classify(runner, &input, output.name);
  lathe_runner_free(runner);
  lathe_network_free(network);
  return result;
}
