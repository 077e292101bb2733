#include "targets/mcu/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "core/error.h"

namespace lathe::mcu {
namespace {

constexpr size_t kMostText = size_t{16} << 20;

struct Pipe {
  int ends[2] = {-1, -1};
  Pipe() {
    if (::pipe2(ends, O_CLOEXEC) != 0) fail(ErrorKind::kInput, "no pipe: {}", std::strerror(errno));
  }
  ~Pipe() {
    close(0);
    close(1);
  }
  void close(int end) {
    if (ends[end] >= 0) ::close(ends[end]);
    ends[end] = -1;
  }
};

}  // namespace

ProcessResult run_process(const std::vector<std::string>& arguments, const std::string& folder, double seconds) {
  using Clock = std::chrono::steady_clock;
  Pipe out, err, failure;
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) fail(ErrorKind::kInput, "no process: {}", std::strerror(errno));
  if (child == 0) {  // only what may be called between fork and exec
    ::setpgid(0, 0);
    sigset_t none;  // what the caller's threads leave to one of them comes to the child
    ::sigemptyset(&none);
    ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
    const int nothing = ::open("/dev/null", O_RDONLY);
    ::dup2(nothing, 0);
    ::dup2(out.ends[1], 1);
    ::dup2(err.ends[1], 2);
    if (::chdir(folder.c_str()) == 0) ::execvp(argv[0], argv.data());
    const int why = errno;
    (void)!::write(failure.ends[1], &why, sizeof why);
    ::_exit(127);
  }
  ::setpgid(child, child);
  out.close(1);
  err.close(1);
  failure.close(1);
  ProcessResult result;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  std::array<pollfd, 2> waits{{{out.ends[0], POLLIN, 0}, {err.ends[0], POLLIN, 0}}};
  std::array<char, 65536> buffer;
  while (waits[0].fd >= 0 || waits[1].fd >= 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) {
      result.timed_out = true;
      ::kill(-child, SIGKILL);
      break;
    }
    if (::poll(waits.data(), waits.size(), static_cast<int>(std::min<long long>(left, 1000))) < 0 && errno != EINTR) break;
    for (size_t i = 0; i < 2; ++i) {
      if (waits[i].fd < 0 || waits[i].revents == 0) continue;
      const ssize_t count = ::read(waits[i].fd, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        waits[i].fd = -1;
        continue;
      }
      std::string& text = i == 0 ? result.out : result.err;
      text.append(buffer.data(), std::min(static_cast<size_t>(count), kMostText - std::min(kMostText, text.size())));
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  int why = 0;
  if (::read(failure.ends[0], &why, sizeof why) == static_cast<ssize_t>(sizeof why))
    fail(ErrorKind::kInput, "{} cannot be run in {}: {}", arguments[0], folder, std::strerror(why));
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

bool have_program(const std::string& name) { return run_process({"sh", "-c", "command -v " + name}, "/", 10).code == 0; }

}  // namespace lathe::mcu
