// Runs a command line as a user would.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace lathe {

struct ShellResult {
  int code = -1;
  std::string out, err;
};

inline ShellResult shell(const std::string& command) {
  ShellResult result;
  const std::string errors = (std::filesystem::temp_directory_path() / fmt::format("lathe_shell_{}.err", ::getpid())).string();
  std::FILE* pipe = ::popen(("{ " + command + "\n} 2>" + errors).c_str(), "r");
  if (!pipe) return result;
  std::array<char, 4096> buffer;
  while (size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe)) result.out.append(buffer.data(), count);
  int status = ::pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::ifstream file(errors);
  result.err.assign(std::istreambuf_iterator<char>(file), {});
  std::remove(errors.c_str());
  return result;
}

inline ShellResult lathe_command(const std::string& arguments) { return shell(std::string(LATHE_BINARY) + " " + arguments); }
inline bool have(const std::string& program) { return shell("command -v " + program).code == 0; }

}  // namespace lathe
