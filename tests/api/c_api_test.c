/* A whole round of the C API, compiled as C99: "" or what went wrong. */
#include <lathe/lathe.h>
#include <string.h>

#define CHECK(condition) \
  do {                   \
    if (!(condition)) return #condition; \
  } while (0)

static const char* run(lathe_runner* runner) {
  float x[6] = {1, 1, 1, 4, 1, 1}, y[4] = {-1, -1, -1, -1};
  const int64_t in_shape[2] = {2, 3}, out_shape[2] = {2, 2};
  lathe_tensor in = {LATHE_F32, 2, in_shape, x}, out = {LATHE_F32, 2, out_shape, y}, got;
  const lathe_step* steps;
  size_t count;
  int64_t arena, constants;
  double total = 0;

  CHECK(lathe_runner_set_input(runner, "x", &in) == LATHE_OK);
  CHECK(lathe_runner_run(runner) == LATHE_OK);
  CHECK(lathe_runner_output(runner, "scores", &got) == LATHE_OK);
  CHECK(got.dtype == LATHE_F32 && got.rank == 2 && got.shape[0] == 2 && got.shape[1] == 2);
  CHECK(((float*)got.data)[1] == 0.5f && ((float*)got.data)[2] == 3);

  CHECK(lathe_runner_set_output(runner, "scores", &out) == LATHE_OK);
  CHECK(lathe_runner_set_profiling(runner, 1) == LATHE_OK);
  CHECK(lathe_runner_run(runner) == LATHE_OK);
  CHECK(y[0] == 0 && y[1] == 0.5f && y[2] == 3 && y[3] == 0);
  CHECK(lathe_runner_profile(runner, &steps, &count) == LATHE_OK && count > 0);
  for (size_t i = 0; i < count; ++i) total += steps[i].milliseconds;
  CHECK(total > 0 && strlen(steps[0].kernel) > 0);
  CHECK(lathe_runner_memory(runner, &arena, &constants) == LATHE_OK && arena > 0 && constants >= 24);

  CHECK(lathe_runner_set_output(runner, "scores", NULL) == LATHE_OK);
  y[0] = -1;
  CHECK(lathe_runner_run(runner) == LATHE_OK && y[0] == -1);
  return "";
}

const char* c_api_round(const void* bytes, size_t size) {
  lathe_network* network = NULL;
  lathe_runner* runner = NULL;
  lathe_tensor_info info;
  lathe_summary summary;
  lathe_options options;
  const int64_t shape[2] = {2, 3};
  const lathe_input_shape shapes[1] = {{"x", 2, shape}};
  const char* result;

  CHECK(strcmp(lathe_version(), LATHE_VERSION) == 0);
  CHECK(lathe_network_from_onnx(bytes, size, &network) == LATHE_OK);
  CHECK(lathe_network_input_count(network) == 1 && lathe_network_output_count(network) == 1);
  CHECK(lathe_network_input(network, 0, &info) == LATHE_OK);
  CHECK(strcmp(info.name, "x") == 0 && info.dtype == LATHE_F32 && info.rank == 2 && info.shape[0] == -1 && info.shape[1] == 3);
  CHECK(lathe_network_summary(network, &summary) == LATHE_OK && summary.parameters == 6 && summary.problem_count == 0);
  lathe_options_init(&options);
  options.threads = 2;
  options.input_shapes = shapes;
  options.input_shape_count = 1;
  CHECK(lathe_network_compile(network, &options, &runner) == LATHE_OK);
  lathe_network_free(network); /* the runner lives on */
  result = run(runner);
  lathe_runner_free(runner);
  return result;
}
