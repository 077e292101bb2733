#include <malloc.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "commands.h"
#include "core/error.h"
#include "core/file.h"
#include "firmware_commands.h"
#include "targets/reproductions.h"

namespace {

std::string typed;

std::string quoted(std::string_view argument) {
  bool plain = !argument.empty() && argument.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,+%@") == argument.npos;
  if (plain) return std::string(argument);
  std::string text = "'";
  for (char c : argument) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

// Interrupted commands leave no temporary files, and end by the signal as their caller expects.
void remove_files_on_signals() {
  struct sigaction action = {};
  action.sa_handler = [](int number) {
    lathe::remove_uncommitted_files();
    ::raise(number);  // by now with its default action
  };
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_NODEFER;
  for (int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
    struct sigaction before = {};
    // What the caller has us ignore (nohup, a shell's background jobs) stays ignored.
    if (::sigaction(number, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) ::sigaction(number, &action, nullptr);
  }
  // A file beyond the limit of its size (ulimit -f) is then an error of the write, which is told like a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
}

// A full disk shows only when what was printed is flushed; exit 0 would say that all of it is there.
int flushed(int exit_code) {
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return exit_code;
  std::fprintf(stderr, "lathe: error: standard output cannot be written: %s\n", std::strerror(errno));
  return exit_code == 0 ? 1 : exit_code;
}

}  // namespace

const std::string& lathe::cli::command_line() { return typed; }

int main(int argc, char** argv) {
#ifdef M_MMAP_THRESHOLD
  // What a tensor let go, the next one takes: fresh pages from the system have to be cleared, which takes longer
  // than packing them (vit_b_16 plans in half the time). Set here and not in the library: it holds for the process.
  ::mallopt(M_MMAP_THRESHOLD, 3 << 20);  // of larger ones the heap would keep too many
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
  remove_files_on_signals();
  for (int i = 0; i < argc; ++i) typed += (i ? " " : "") + (i ? quoted(argv[i]) : std::string("lathe"));
  CLI::App app{"lathe turns a trained neural network until it fits its device."};
  app.require_subcommand(1);
  app.footer("Examples:\n  lathe inspect model.onnx\n  lathe run model.onnx picture.jpg --labels classes.txt\n"
             "  lathe bench model.onnx --threads 2 --layers\n\n\"lathe COMMAND --help\" tells more, \"lathe man\" all.");
  app.set_version_flag("--version", std::string("lathe ") + lathe::cli::kVersion);
  int exit_code = 0;
  lathe::cli::add_run(app);
  lathe::cli::add_inspect(app);
  lathe::cli::add_bench(app);
  lathe::cli::add_plan(app);
  lathe::cli::add_pack(app);
  lathe::cli::add_convert(app);
  lathe::cli::add_patch(app);
  lathe::cli::add_verify(app, &exit_code);
  lathe::cli::add_device(app);
  lathe::cli::add_completion(app);
  lathe::cli::add_man(app);
  lathe::cli::add_quantize(app);
  lathe::cli::add_factorize(app);
  lathe::cli::add_optimize(app);
  lathe::cli::add_evaluate(app);
  lathe::cli::add_techniques(app);
  lathe::cli::add_models(app, &exit_code);
  lathe::cli::add_fit(app);
  lathe::cli::add_emit_c(app);
  lathe::cli::add_emulate(app);
  lathe::cli::add_train(app, argv);
  lathe::cli::add_reproduce(app, &exit_code, lathe::firmware_reproductions(), [&] { lathe::cli::try_training_program(argv); });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    int code = app.exit(e);
    return code == 0 ? flushed(0) : 2;
  } catch (const lathe::Error& e) {
    std::fprintf(stderr, "lathe: error: %s\n", e.what());
    return e.kind() == lathe::ErrorKind::kUsage ? 2 : e.kind() == lathe::ErrorKind::kBudget ? 3 : 1;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "lathe: error: out of memory\n");
    return 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "lathe: error: %s\n", e.what());
    return 1;
  }
  return flushed(exit_code);
}
