/* Runs the network on what inputs.bin holds, image after image, and writes outputs.bin; without such a file on the linked
 * sample. Prints what it did, one fact a line: lathe emulate reads them. */
#include <string.h>

#include "@name@.h"
#include "host.h"
#include "sample.h"

static void print_number(uint64_t x) {
  char text[24];
  char *p = text + sizeof text - 1;
  *p = 0;
  do {
    *--p = (char)('0' + (int)(x % 10));
    x /= 10;
  } while (x != 0);
  host_print(p);
}

static void fact(const char *what, uint64_t index, uint64_t value) {
  host_print(what);
  host_print(" ");
  print_number(index);
  host_print(" ");
  print_number(value);
  host_print("\n");
}

/* Bytes in hexadecimal: exact, and short enough to read. */
static void print_bytes(const uint8_t *data, uint32_t count) {
  static const char digits[] = "0123456789abcdef";
  char text[65];
  for (uint32_t at = 0; at < count;) {
    uint32_t n = 0;
    for (; n < 64 && at < count; ++at) {
      text[n++] = digits[data[at] >> 4];
      text[n++] = digits[data[at] & 15];
    }
    text[n] = 0;
    host_print(text);
  }
  host_print("\n");
}

#ifdef @NAME@_INPUT_OUTSIDE
/* The input is not the network's to keep. */
#if defined(__arm__)
__attribute__((section(".outside")))
#endif
static uint8_t outside[@NAME@_INPUT_COUNT];
static void *place_of_input(int i) { return i == 0 ? outside : 0; }
#else
static void *place_of_input(int i) { return @name@_inputs[i].data; }
#endif

static uint64_t layer_ticks[@NAME@_LAYERS];

static void run_and_count(void) {
  for (int i = 0; i < @NAME@_LAYERS; ++i) {
    const uint64_t begin = host_ticks();
    @name@_run_layer(i);
    layer_ticks[i] += host_ticks() - begin;
  }
}

int main(void) {
  host_paint_stack();
  host_start_clock();
  const uint64_t begin = host_ticks();
  host_count_to(1000000);
  fact("ticks_of_instructions", 2000000, host_ticks() - begin);
  @name@_init();
#ifdef @NAME@_INPUT_OUTSIDE
  @name@_set_input((const void *)outside);
#endif
  uint64_t images = 0;
  const int in = host_open("inputs.bin", 0);
  if (in >= 0) {
    const int out = host_open("outputs.bin", 1);
    if (out < 0) {
      host_print("outputs.bin cannot be written\n");
      return 1;
    }
    for (;; ++images) {
      int whole = 1;
      for (int i = 0; whole && i < @NAME@_INPUTS; ++i) whole = host_read(in, place_of_input(i), @name@_inputs[i].bytes);
      if (!whole) break;
      run_and_count();
      for (int i = 0; i < @NAME@_OUTPUTS; ++i)
        if (!host_write(out, @name@_outputs[i].data, @name@_outputs[i].bytes)) {
          host_print("outputs.bin cannot be written\n");
          return 1;
        }
    }
    host_close(in);
    host_close(out);
  } else {
    for (int i = 0; i < @NAME@_INPUTS; ++i) memcpy(place_of_input(i), sample_inputs[i], @name@_inputs[i].bytes);
    run_and_count();
    images = 1;
    for (int i = 0; i < @NAME@_OUTPUTS; ++i) {
      host_print("output ");
      print_number((uint64_t)i);
      host_print(" ");
      print_bytes(@name@_outputs[i].data, @name@_outputs[i].bytes);
    }
  }
  for (int i = 0; i < @NAME@_LAYERS; ++i) fact("layer_ticks", (uint64_t)i, layer_ticks[i]);
  fact("images", 0, images);
  fact("stack", 0, host_stack_used());
  return 0;
}
