// oneDNN, loaded when the first kernel of it is made: a network that needs none neither waits for so large a library to
// be bound nor needs it to be there. Include this instead of dnnl.hpp, whose calls it leads to the loaded library.
#pragma once

#include <dnnl.h>

namespace lathe {

#define LATHE_ONEDNN_FUNCTIONS(X)                                                                                              \
  X(dnnl_dilated_convolution_backward_data_desc_init) X(dnnl_dilated_convolution_backward_weights_desc_init)                   \
  X(dnnl_dilated_convolution_forward_desc_init) X(dnnl_engine_create) X(dnnl_engine_destroy) X(dnnl_matmul_desc_init)          \
  X(dnnl_get_effective_cpu_isa)                                                                                                \
  X(dnnl_memory_create) X(dnnl_memory_desc_equal) X(dnnl_memory_desc_get_size) X(dnnl_memory_desc_init_by_strides)             \
  X(dnnl_memory_desc_init_by_tag) X(dnnl_memory_destroy) X(dnnl_memory_get_engine) X(dnnl_memory_get_memory_desc)              \
  X(dnnl_memory_set_data_handle_v2) X(dnnl_post_ops_append_eltwise) X(dnnl_post_ops_append_sum) X(dnnl_post_ops_create)        \
  X(dnnl_post_ops_destroy) X(dnnl_primitive_attr_create) X(dnnl_primitive_attr_destroy) X(dnnl_primitive_attr_set_post_ops)    \
  X(dnnl_primitive_attr_set_scratchpad_mode) X(dnnl_primitive_create) X(dnnl_primitive_desc_destroy)                           \
  X(dnnl_primitive_desc_iterator_create) X(dnnl_primitive_desc_iterator_destroy) X(dnnl_primitive_desc_iterator_fetch)         \
  X(dnnl_primitive_desc_query) X(dnnl_primitive_desc_query_md) X(dnnl_primitive_destroy) X(dnnl_primitive_execute) X(dnnl_reorder_primitive_desc_create)    \
  X(dnnl_set_jit_profiling_flags) X(dnnl_set_max_cpu_isa) X(dnnl_sgemm) X(dnnl_stream_create) X(dnnl_stream_destroy) X(dnnl_stream_wait)     \
  X(dnnl_version)

struct OneDnnFunctions {
#define LATHE_ONEDNN_MEMBER(name) decltype(&::name) name = nullptr;  // NOLINT(bugprone-macro-parentheses)
  LATHE_ONEDNN_FUNCTIONS(LATHE_ONEDNN_MEMBER)
#undef LATHE_ONEDNN_MEMBER
};

// Loads the library at the first call. Throws LibraryMissing when there is none, or one that lacks a function.
const OneDnnFunctions& onednn();
// Whether it is, or can be, loaded.
bool onednn_available();
// The best instruction set that oneDNN may use, from the time on when it is loaded; none by default.
void limit_onednn(dnnl_cpu_isa_t isa);

}  // namespace lathe

#ifndef LATHE_ONEDNN_LIBRARY_ITSELF
#define dnnl_dilated_convolution_backward_data_desc_init (lathe::onednn().dnnl_dilated_convolution_backward_data_desc_init)
#define dnnl_dilated_convolution_backward_weights_desc_init (lathe::onednn().dnnl_dilated_convolution_backward_weights_desc_init)
#define dnnl_dilated_convolution_forward_desc_init (lathe::onednn().dnnl_dilated_convolution_forward_desc_init)
#define dnnl_engine_create (lathe::onednn().dnnl_engine_create)
#define dnnl_engine_destroy (lathe::onednn().dnnl_engine_destroy)
#define dnnl_get_effective_cpu_isa (lathe::onednn().dnnl_get_effective_cpu_isa)
#define dnnl_matmul_desc_init (lathe::onednn().dnnl_matmul_desc_init)
#define dnnl_memory_create (lathe::onednn().dnnl_memory_create)
#define dnnl_memory_desc_equal (lathe::onednn().dnnl_memory_desc_equal)
#define dnnl_memory_desc_get_size (lathe::onednn().dnnl_memory_desc_get_size)
#define dnnl_memory_desc_init_by_strides (lathe::onednn().dnnl_memory_desc_init_by_strides)
#define dnnl_memory_desc_init_by_tag (lathe::onednn().dnnl_memory_desc_init_by_tag)
#define dnnl_memory_destroy (lathe::onednn().dnnl_memory_destroy)
#define dnnl_memory_get_engine (lathe::onednn().dnnl_memory_get_engine)
#define dnnl_memory_get_memory_desc (lathe::onednn().dnnl_memory_get_memory_desc)
#define dnnl_memory_set_data_handle_v2 (lathe::onednn().dnnl_memory_set_data_handle_v2)
#define dnnl_post_ops_append_eltwise (lathe::onednn().dnnl_post_ops_append_eltwise)
#define dnnl_post_ops_append_sum (lathe::onednn().dnnl_post_ops_append_sum)
#define dnnl_post_ops_create (lathe::onednn().dnnl_post_ops_create)
#define dnnl_post_ops_destroy (lathe::onednn().dnnl_post_ops_destroy)
#define dnnl_primitive_attr_create (lathe::onednn().dnnl_primitive_attr_create)
#define dnnl_primitive_attr_destroy (lathe::onednn().dnnl_primitive_attr_destroy)
#define dnnl_primitive_attr_set_post_ops (lathe::onednn().dnnl_primitive_attr_set_post_ops)
#define dnnl_primitive_attr_set_scratchpad_mode (lathe::onednn().dnnl_primitive_attr_set_scratchpad_mode)
#define dnnl_primitive_create (lathe::onednn().dnnl_primitive_create)
#define dnnl_primitive_desc_destroy (lathe::onednn().dnnl_primitive_desc_destroy)
#define dnnl_primitive_desc_iterator_create (lathe::onednn().dnnl_primitive_desc_iterator_create)
#define dnnl_primitive_desc_iterator_destroy (lathe::onednn().dnnl_primitive_desc_iterator_destroy)
#define dnnl_primitive_desc_iterator_fetch (lathe::onednn().dnnl_primitive_desc_iterator_fetch)
#define dnnl_primitive_desc_query (lathe::onednn().dnnl_primitive_desc_query)
#define dnnl_primitive_desc_query_md (lathe::onednn().dnnl_primitive_desc_query_md)
#define dnnl_primitive_destroy (lathe::onednn().dnnl_primitive_destroy)
#define dnnl_primitive_execute (lathe::onednn().dnnl_primitive_execute)
#define dnnl_reorder_primitive_desc_create (lathe::onednn().dnnl_reorder_primitive_desc_create)
#define dnnl_set_jit_profiling_flags (lathe::onednn().dnnl_set_jit_profiling_flags)
#define dnnl_set_max_cpu_isa (lathe::onednn().dnnl_set_max_cpu_isa)
#define dnnl_sgemm (lathe::onednn().dnnl_sgemm)
#define dnnl_stream_create (lathe::onednn().dnnl_stream_create)
#define dnnl_stream_destroy (lathe::onednn().dnnl_stream_destroy)
#define dnnl_stream_wait (lathe::onednn().dnnl_stream_wait)
#define dnnl_version (lathe::onednn().dnnl_version)
#include <dnnl.hpp>

namespace lathe {

const dnnl::engine& onednn_cpu();
dnnl::stream& onednn_stream();
// Numbers in another arrangement, when it returns.
void onednn_reorder(dnnl::memory from, dnnl::memory to);
// Whether convolutions in groups may be asked of it.
bool onednn_takes_groups();

}  // namespace lathe
#endif
