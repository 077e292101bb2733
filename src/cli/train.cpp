// Training is a program of its own, lathe-train beside this one: it links libtorch, whose start alone takes half a second.
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "commands.h"
#include "core/error.h"
#include "train_options.h"

namespace lathe::cli {

namespace {

std::filesystem::path training_program() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "lathe-train";
}

}  // namespace

void try_training_program(char** argv) {
  const std::filesystem::path program = training_program();
  if (!std::filesystem::exists(program)) return;
  // Threads that wait for one another spin 0.1 ms instead of some: on a busy machine a step of two threads took five times as long.
  if (!std::getenv("OMP_WAIT_POLICY")) ::setenv("GOMP_SPINCOUNT", "10000", 0);
  ::execv(program.c_str(), argv);
  fail(ErrorKind::kUnsupported, "{}: {}", program.string(), std::strerror(errno));
}

void add_train(CLI::App& app, char** argv) {
  declare_train(app, [argv](const TrainCommand&) {
    try_training_program(argv);
    fail(ErrorKind::kUnsupported, "this build of lathe cannot train: {} is missing. It is built where libtorch is found (Debian: libtorch-dev); configure and build again", training_program().string());
  });
}

}  // namespace lathe::cli
