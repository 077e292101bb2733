// lathe-train: what of `lathe` needs libtorch. `lathe train` and `lathe finetune` become this program, with the same arguments.
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <functional>
#include <thread>

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

// Whether training is to end at the next step, with a checkpoint.
std::atomic<bool> asked = false;

// The first interrupt asks for the end; the second is one at once. What runs the program (timeout, make) often sends one interrupt twice, to
// the process and to its group: within half a second they are one. All threads leave them to this one: kernels of oneDNN use the stack
// pointer as a register, and a handler on their stack would write over the heap (kernels/product.h).
void wait_for_interrupts() {
  static sigset_t interrupts;
  ::sigemptyset(&interrupts);
  for (int number : {SIGINT, SIGTERM}) {
    std::signal(number, SIG_DFL);
    ::sigaddset(&interrupts, number);
  }
  ::pthread_sigmask(SIG_BLOCK, &interrupts, nullptr);
  std::thread([] {
    using Clock = std::chrono::steady_clock;
    Clock::time_point first;
    for (int number = 0; ::sigwait(&interrupts, &number) == 0;) {
      if (!asked) {
        first = Clock::now();
        asked = true;
      } else if (Clock::now() - first > std::chrono::milliseconds(500)) {
        lathe::remove_uncommitted_files();
        ::pthread_sigmask(SIG_UNBLOCK, &interrupts, nullptr);
        ::raise(number);
      }
    }
  }).detach();
}

}  // namespace

int main(int argc, char** argv) {
#ifdef M_MMAP_THRESHOLD
  // Activations come and go in each step: pages that the heap gives back must be cleared when they come again, which took a
  // quarter of the time of mobilenet_v2.
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, INT_MAX);
#endif
  wait_for_interrupts();
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App app{"Trains networks; lathe train and lathe finetune."};
  app.require_subcommand(1);
  const auto stops = [] { return asked.load(); };
  lathe::cli::declare_train(app, [&](const lathe::cli::TrainCommand& c) { lathe::cli::train_command(c, stops); });
  int exit_code = 0;
  const std::vector<lathe::Reproduction> all = lathe::merged(lathe::firmware_reproductions(), lathe::training_reproductions());
  lathe::cli::add_reproduce(app, &exit_code, all, nullptr, stops);
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
