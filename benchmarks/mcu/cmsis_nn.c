/* The layers of layers.h by CMSIS-NN's wrappers, timed by SysTick: one fact a line, as the firmware's own main() prints
 * them. Contents of tensors do not change how many instructions run; they are filled with something anyway. */
#include <string.h>

#include "arm_nnfunctions.h"
#include "host.h"
#include "layers.h" /* struct shape layers[LAYERS], made by compare.py */

enum { MOST_CODES = 1 << 19, MOST_WEIGHTS = 1300 << 10, MOST_CHANNELS = 2048, MOST_SCRATCH = 1 << 17 };
static int8_t x[MOST_CODES], y[MOST_CODES], weights[MOST_WEIGHTS];
static int32_t bias[MOST_CHANNELS], multipliers[MOST_CHANNELS], shifts[MOST_CHANNELS], sums[MOST_CHANNELS];
static int8_t scratch[MOST_SCRATCH] __attribute__((aligned(16)));

static void print_number(uint64_t n) {
  char text[24];
  char *p = text + sizeof text - 1;
  *p = 0;
  do {
    *--p = (char)('0' + (int)(n % 10));
    n /= 10;
  } while (n != 0);
  host_print(p);
}

static int run(const struct shape *s) {
  const cmsis_nn_dims in = {1, s->height, s->width, s->channels}, out = {1, s->out_height, s->out_width, s->outputs}, biases = {1, 1, 1, s->outputs};
  const cmsis_nn_tile stride = {s->stride_w, s->stride_h}, padding = {s->pad_left, s->pad_top}, dilation = {1, 1};
  const cmsis_nn_activation all = {-128, 127};
  cmsis_nn_per_channel_quant_params scales = {multipliers, shifts};
  cmsis_nn_context context = {scratch, sizeof scratch};
  if (s->kind == 'c') {
    const cmsis_nn_conv_params params = {128, -128, stride, padding, dilation, all};
    const cmsis_nn_dims filter = {s->outputs, s->kernel_h, s->kernel_w, s->channels};
    if (arm_convolve_wrapper_s8_get_buffer_size(&params, &in, &filter, &out) > (int32_t)sizeof scratch) return 1;
    return (int)arm_convolve_wrapper_s8(&context, &params, &scales, &in, x, &filter, weights, &biases, bias, &out, y);
  }
  if (s->kind == 'd') {
    const cmsis_nn_dw_conv_params params = {128, -128, 1, stride, padding, dilation, all};
    const cmsis_nn_dims filter = {1, s->kernel_h, s->kernel_w, s->outputs};
    if (arm_depthwise_conv_wrapper_s8_get_buffer_size(&params, &in, &filter, &out) > (int32_t)sizeof scratch) return 1;
    return (int)arm_depthwise_conv_wrapper_s8(&context, &params, &scales, &in, x, &filter, weights, &biases, bias, &out, y);
  }
  const cmsis_nn_fc_params params = {128, 0, -128, all};
  const cmsis_nn_per_tensor_quant_params scale = {multipliers[0], shifts[0]};
  const cmsis_nn_dims filter = {s->channels, 1, 1, s->outputs}, row = {1, 1, 1, s->channels};
  context.buf = sums; /* CMSIS-NN keeps sums of weights there where it needs them */
  return (int)arm_fully_connected_s8(&context, &params, &scale, &row, x, &filter, weights, &biases, bias, &out, y);
}

int main(void) {
  for (int32_t i = 0; i < MOST_CODES; ++i) x[i] = (int8_t)(i * 37);
  for (int32_t i = 0; i < MOST_WEIGHTS; ++i) weights[i] = (int8_t)(i * 91);
  for (int32_t i = 0; i < MOST_CHANNELS; ++i) multipliers[i] = 1518500250, shifts[i] = -8;
  host_start_clock();
  for (int i = 0; i < LAYERS; ++i) {
    const uint64_t begin = host_ticks();
    const int failed = run(&layers[i]);
    const uint64_t ticks = host_ticks() - begin;
    host_print(failed ? "failed " : "layer_ticks ");
    print_number((uint64_t)i);
    host_print(" ");
    print_number(ticks);
    host_print("\n");
  }
  return 0;
}
