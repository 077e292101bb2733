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
if(NOT TORCH_HEADERS OR NOT TORCH_LIBRARY OR NOT TORCH_CPU_LIBRARY OR NOT C10_LIBRARY)
  message(STATUS "No libtorch (Debian: libtorch-dev): lathe is built without training")
  return()
endif()
set(LATHE_HAS_TRAINING ON)

# Its own CMake package asks for CUDA, MKL and Python in turn; three libraries are all that is needed.
add_library(lathe_torch INTERFACE)
target_include_directories(lathe_torch SYSTEM INTERFACE ${TORCH_HEADERS})
target_link_libraries(lathe_torch INTERFACE ${TORCH_LIBRARY} ${TORCH_CPU_LIBRARY} ${C10_LIBRARY})

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
target_link_libraries(lathe-train PRIVATE lathe_train CLI11::CLI11)

if(LATHE_BENCHMARKS)
  add_executable(bench_training benchmarks/training/training.cpp)
  target_link_libraries(bench_training PRIVATE lathe_train CLI11::CLI11)
endif()
