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

void run_training_program(char** argv) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path program = self.parent_path() / "lathe-train";
  if (error || !std::filesystem::exists(program))
    fail(ErrorKind::kUnsupported, "this build of lathe cannot train: {} is missing. It is built where libtorch is found (Debian: libtorch-dev); configure and build again", program.string());
  // Threads that wait for one another spin 0.1 ms instead of some: on a busy machine a step of two threads took five times as long.
  if (!std::getenv("OMP_WAIT_POLICY")) ::setenv("GOMP_SPINCOUNT", "10000", 0);
  ::execv(program.c_str(), argv);
  fail(ErrorKind::kUnsupported, "{}: {}", program.string(), std::strerror(errno));
}

void add_train(CLI::App& app, char** argv) {
  declare_train(app, [argv](const TrainCommand&) { run_training_program(argv); });
}

}  // namespace lathe::cli
