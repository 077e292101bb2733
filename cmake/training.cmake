# Training on libtorch: src/train and what stands on it, and nothing else, links it. Without libtorch all the rest is built, and
# `lathe train` says what is missing.
option(LATHE_TRAINING "Build what trains, where libtorch is found" ON)
if(NOT LATHE_TRAINING)
  return()
endif()
find_path(TORCH_HEADERS torch/torch.h PATH_SUFFIXES torch/csrc/api/include include/torch/csrc/api/include)
find_library(TORCH_LIBRARY torch)
find_library(TORCH_CPU_LIBRARY torch_cpu)
find_library(C10_LIBRARY c10)
# With CUDA the registration of its kernels is all that is used of them, so that the linker must be told to keep them.
find_library(TORCH_CUDA_LIBRARY torch_cuda)
if(NOT TORCH_HEADERS OR NOT TORCH_LIBRARY OR NOT TORCH_CPU_LIBRARY OR NOT C10_LIBRARY)
  message(STATUS "No libtorch (Debian: libtorch-dev): lathe is built without training")
  return()
endif()
set(LATHE_HAS_TRAINING ON)

# Its own CMake package asks for CUDA, MKL and Python in turn; three libraries are all that is needed.
add_library(lathe_torch INTERFACE)
# Beside its own headers libtorch 2 brings those of fmt, oneDNN and others, of other versions than ours: a view shows the former alone.
get_filename_component(torch_headers_root ${TORCH_HEADERS}/../../../.. ABSOLUTE)
set(torch_view ${PROJECT_BINARY_DIR}/include/torch_view)
file(MAKE_DIRECTORY ${torch_view})
foreach(part ATen c10 caffe2 torch)
  if(EXISTS ${torch_headers_root}/${part})
    file(CREATE_LINK ${torch_headers_root}/${part} ${torch_view}/${part} SYMBOLIC)
  endif()
endforeach()
target_include_directories(lathe_torch SYSTEM INTERFACE ${torch_view}/torch/csrc/api/include ${torch_view})
target_link_libraries(lathe_torch INTERFACE ${TORCH_LIBRARY} ${TORCH_CPU_LIBRARY} ${C10_LIBRARY})
if(TORCH_CUDA_LIBRARY)
  target_link_libraries(lathe_torch INTERFACE -Wl,--no-as-needed ${TORCH_CUDA_LIBRARY} -Wl,--as-needed)
endif()

list_files_of(train/reproduce training_reproduction Reproduction experiments train/reproduction_files.h)
lathe_folder(train LINK lathe_optimize lathe_models lathe_data lathe_torch)
target_include_directories(lathe_train PRIVATE ${PROJECT_BINARY_DIR}/generated)
target_precompile_headers(lathe_train PRIVATE ${PROJECT_SOURCE_DIR}/src/train/torch.h)
if(CCACHE)
  # ccache keeps what is compiled with a precompiled header only when it is told that times in it do not matter.
  set_target_properties(lathe_train PROPERTIES CXX_COMPILER_LAUNCHER "env;CCACHE_SLOPPINESS=pch_defines,time_macros;${CCACHE}")
  target_compile_options(lathe_train PRIVATE -fpch-preprocess)
endif()

file(GLOB train_cli_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/cli_train/*.cpp)
add_executable(lathe-train ${train_cli_sources} ${PROJECT_SOURCE_DIR}/src/cli/train_options.cpp ${PROJECT_SOURCE_DIR}/src/cli/reproduce.cpp)
target_include_directories(lathe-train PRIVATE ${PROJECT_SOURCE_DIR}/src/cli)
target_link_libraries(lathe-train PRIVATE lathe_train lathe_targets CLI11::CLI11)

if(LATHE_BENCHMARKS)
  add_executable(bench_training benchmarks/training/training.cpp)
  target_link_libraries(bench_training PRIVATE lathe_train CLI11::CLI11)
endif()
