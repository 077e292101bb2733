// lathe-train: what of `lathe` needs libtorch. `lathe train` and `lathe finetune` become this program, with the same arguments.
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <functional>

#include "commands.h"
#include "core/error.h"
#include "core/file.h"
#include "targets/reproductions.h"
#include "train/reproductions.h"
#include "train_options.h"

namespace lathe::cli {
void train_command(const TrainCommand& c, const std::function<bool()>& stops);
}

namespace {

// When the first interrupt came, in milliseconds of CLOCK_MONOTONIC; 0: none did.
std::atomic<int64_t> asked = 0;
static_assert(std::atomic<int64_t>::is_always_lock_free);

// The first time training ends at the next step, with a checkpoint; the second time at once. What runs the program (timeout, make)
// often sends one interrupt twice, to the process and to its group: within half a second they are one.
void interrupted(int number) {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t at = now.tv_sec * int64_t{1000} + now.tv_nsec / 1'000'000;
  if (asked == 0) {
    asked = at;
  } else if (at - asked > 500) {
    lathe::remove_uncommitted_files();
    std::signal(number, SIG_DFL);
    ::raise(number);
  }
}

}  // namespace

int main(int argc, char** argv) {
#ifdef M_MMAP_THRESHOLD
  // Activations come and go in each step: pages that the heap gives back must be cleared when they come again, which took a
  // quarter of the time of mobilenet_v2.
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, INT_MAX);
#endif
  for (int number : {SIGINT, SIGTERM}) std::signal(number, interrupted);
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App app{"Trains networks; lathe train and lathe finetune."};
  app.require_subcommand(1);
  lathe::cli::declare_train(app, [](const lathe::cli::TrainCommand& c) { lathe::cli::train_command(c, [] { return asked != 0; }); });
  int exit_code = 0;
  const std::vector<lathe::Reproduction> all = lathe::merged(lathe::firmware_reproductions(), lathe::training_reproductions());
  lathe::cli::add_reproduce(app, &exit_code, all);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const lathe::Error& e) {
    std::fprintf(stderr, "lathe: error: %s\n", e.what());
    return e.kind() == lathe::ErrorKind::kUsage ? 2 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "lathe: error: %s\n", e.what());
    return 1;
  }
  return std::fflush(stdout) == 0 ? exit_code : 1;
}
