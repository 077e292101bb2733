/* The C API of lathe (C99 and later): neural networks in ONNX files on a CPU.
 *
 *   lathe_network* network = NULL;
 *   lathe_runner* runner = NULL;
 *   if (lathe_network_open("net.onnx", &network) != LATHE_OK) { puts(lathe_last_error()); ... }
 *   lathe_network_compile(network, NULL, &runner);
 *   lathe_runner_set_input(runner, "image", &(lathe_tensor){LATHE_F32, 4, shape, pixels});
 *   lathe_runner_run(runner);
 *   lathe_runner_output(runner, "scores", &scores);
 *
 * Every function that can fail returns a lathe_status; then lathe_last_error() says why, and nothing that was
 * to be written through a pointer has been. Names are UTF-8. Strings and arrays that a function hands out
 * belong to the object that it was asked of, and live until that is freed, except where it says otherwise.
 * A network may be used by several threads, a runner by one at a time. Same semantics as lathe/network.h. */
#ifndef LATHE_LATHE_H_
#define LATHE_LATHE_H_

#include <stddef.h>
#include <stdint.h>

#include "lathe/export.h"
#include "lathe/version.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lathe_status {
  LATHE_OK = 0,
  LATHE_USAGE = 1,       /* the call makes no sense: an unknown name, a null pointer, too few threads */
  LATHE_INPUT = 2,       /* a file or tensor is missing, broken or of the wrong type or shape */
  LATHE_MODEL = 3,       /* the network is invalid */
  LATHE_UNSUPPORTED = 4, /* valid, but lathe cannot do it */
  LATHE_BUDGET = 5,      /* does not fit the device */
  LATHE_INTERNAL = 6,    /* a defect of lathe */
  LATHE_MEMORY = 7       /* out of memory */
} lathe_status;

/* The numbers of ONNX. 2- and 4-bit types take a byte an element. */
typedef enum lathe_dtype {
  LATHE_UNDEFINED = 0, LATHE_F32 = 1, LATHE_U8 = 2, LATHE_I8 = 3, LATHE_U16 = 4, LATHE_I16 = 5, LATHE_I32 = 6,
  LATHE_I64 = 7, LATHE_STRING = 8, LATHE_BOOL = 9, LATHE_F16 = 10, LATHE_F64 = 11, LATHE_U32 = 12, LATHE_U64 = 13,
  LATHE_C64 = 14, LATHE_C128 = 15, LATHE_BF16 = 16, LATHE_F8E4M3FN = 17, LATHE_F8E4M3FNUZ = 18,
  LATHE_F8E5M2 = 19, LATHE_F8E5M2FNUZ = 20, LATHE_U4 = 21, LATHE_I4 = 22, LATHE_F4E2M1 = 23, LATHE_F8E8M0 = 24,
  LATHE_U2 = 25, LATHE_I2 = 26
} lathe_dtype;

typedef struct lathe_network lathe_network;
typedef struct lathe_runner lathe_runner;

/* Row-major elements, one after the other; owned by whoever made them. */
typedef struct lathe_tensor {
  lathe_dtype dtype;
  size_t rank;
  const int64_t* shape;
  void* data;
} lathe_tensor;

/* As declared: -1 is an open size; rank -1: not even the rank is known. */
typedef struct lathe_tensor_info {
  const char* name;
  lathe_dtype dtype;
  int64_t rank;
  const int64_t* shape;
} lathe_tensor_info;

typedef struct lathe_summary {
  int64_t nodes;
  int64_t parameters;
  int64_t macs;              /* multiply-accumulates; open sizes count as 1 */
  int64_t activation_bytes;
  size_t problem_count;      /* 0: can be compiled */
} lathe_summary;

typedef enum lathe_precision { LATHE_PRECISION_F32 = 0, LATHE_PRECISION_BF16 = 1 } lathe_precision;

typedef struct lathe_input_shape {
  const char* name;
  size_t rank;
  const int64_t* shape;
} lathe_input_shape;

/* Fill with lathe_options_init() first: later versions may append fields. */
typedef struct lathe_options {
  size_t size;  /* of this struct */
  int threads;  /* 1 */
  lathe_precision precision;
  int64_t batch;  /* > 0: first size of every input, even where the network says 1 */
  size_t cached_plans;
  int tune;
  const char* device_file;  /* or NULL: this machine, no limits */
  const lathe_input_shape* input_shapes;
  size_t input_shape_count;
} lathe_options;

typedef struct lathe_step {
  const char* name;
  const char* op;
  const char* kernel;
  double milliseconds;
  int64_t macs;
} lathe_step;

LATHE_API const char* lathe_version(void);
/* Of the last call in this thread that failed; valid until the next one that fails. Never NULL. */
LATHE_API const char* lathe_last_error(void);
LATHE_API size_t lathe_dtype_size(lathe_dtype dtype); /* bytes of an element, 0: not held */

LATHE_API lathe_status lathe_network_open(const char* path, lathe_network** network);
LATHE_API lathe_status lathe_network_from_onnx(const void* bytes, size_t size, lathe_network** network);
LATHE_API void lathe_network_free(lathe_network* network); /* NULL is allowed; runners live on */
LATHE_API size_t lathe_network_input_count(const lathe_network* network);
LATHE_API size_t lathe_network_output_count(const lathe_network* network);
LATHE_API lathe_status lathe_network_input(const lathe_network* network, size_t index, lathe_tensor_info* info);
LATHE_API lathe_status lathe_network_output(const lathe_network* network, size_t index, lathe_tensor_info* info);
LATHE_API lathe_status lathe_network_summary(const lathe_network* network, lathe_summary* summary);
/* What keeps the network from running; NULL when index is out of range. */
LATHE_API const char* lathe_network_problem(const lathe_network* network, size_t index);

LATHE_API void lathe_options_init(lathe_options* options);
/* options may be NULL. */
LATHE_API lathe_status lathe_network_compile(const lathe_network* network, const lathe_options* options,
                                             lathe_runner** runner);
LATHE_API void lathe_runner_free(lathe_runner* runner);

/* Read where it lies, at every run from now on: tensor->data must stay, tensor itself need not. */
LATHE_API lathe_status lathe_runner_set_input(lathe_runner* runner, const char* name, const lathe_tensor* tensor);
/* Written in place from now on; NULL undoes it. */
LATHE_API lathe_status lathe_runner_set_output(lathe_runner* runner, const char* name, const lathe_tensor* tensor);
LATHE_API lathe_status lathe_runner_run(lathe_runner* runner);
/* After a run: valid until the next one, or for as long as the memory given for it. */
LATHE_API lathe_status lathe_runner_output(lathe_runner* runner, const char* name, lathe_tensor* tensor);

LATHE_API lathe_status lathe_runner_set_profiling(lathe_runner* runner, int on);
/* The steps of the last run's plan; the array is valid until the next call of this function. */
LATHE_API lathe_status lathe_runner_profile(lathe_runner* runner, const lathe_step** steps, size_t* count);
LATHE_API lathe_status lathe_runner_memory(const lathe_runner* runner, int64_t* arena_bytes, int64_t* constant_bytes);

#ifdef __cplusplus
}
#endif

#endif /* LATHE_LATHE_H_ */
