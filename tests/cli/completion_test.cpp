// Completions in the shells themselves, the man page through groff.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "core/file.h"
#include "shell.h"
#include "tiny_models.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::UnorderedElementsAre;

// A folder with a model, a picture and a folder in it.
std::string playground() {
  fs::path folder = scratch_folder() / "play";
  fs::create_directories(folder / "models");
  for (const char* name : {"net.onnx", "net.lathe", "cat picture.jpg"}) write_file((folder / name).string(), "x");
  return folder.string();
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) result.push_back(line);
  return result;
}

// What bash offers for a line, cut into words as readline does ('=' is a word).
std::vector<std::string> bash(const std::string& words) {
  std::string script = "cd " + playground() + "\nsource <(" LATHE_BINARY " completion bash)\nCOMP_WORDS=(" + words +
                       ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_lathe\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n";
  write_file((scratch_folder() / "complete.bash").string(), script);
  ShellResult r = shell("bash --norc " + (scratch_folder() / "complete.bash").string());
  EXPECT_EQ(r.err, "") << words;
  std::vector<std::string> offered = lines(r.out);
  std::erase(offered, "");
  return offered;
}

TEST(BashCompletion, OffersCommandsFlagsChoicesAndFiles) {
  EXPECT_THAT(bash("lathe ''"), AllOf(Contains("run"), Contains("bench"), Contains("--version"), Contains("completion")));
  EXPECT_THAT(bash("lathe be"), ElementsAre("bench"));
  EXPECT_THAT(bash("lathe bench --pre"), ElementsAre("--precision"));
  EXPECT_THAT(bash("lathe bench --precision ''"), ElementsAre("fp32", "bf16"));
  EXPECT_THAT(bash("lathe bench --precision = b"), ElementsAre("bf16"));
  EXPECT_THAT(bash("lathe bench --precision bf16 --lay"), ElementsAre("--layers"));
  EXPECT_THAT(bash("lathe bench net.onnx --threads ''"), IsEmpty());
  EXPECT_THAT(bash("lathe bench ''"), UnorderedElementsAre("net.onnx", "net.lathe", "models"));
  EXPECT_THAT(bash("lathe bench --json ne"), UnorderedElementsAre("net.onnx", "net.lathe"));
  EXPECT_THAT(bash("lathe bench --runs 3 --json ne"), UnorderedElementsAre("net.onnx", "net.lathe"));
  EXPECT_THAT(bash("lathe run net.onnx ca"), ElementsAre("cat picture.jpg"));
  EXPECT_THAT(bash("lathe run net.onnx --input x = ca"), ElementsAre("cat picture.jpg"));
  EXPECT_THAT(bash("lathe run net.onnx --input x ="), Contains("net.onnx"));
  EXPECT_THAT(bash("lathe run net.onnx --input ''"), IsEmpty());
  EXPECT_THAT(bash("lathe run net.onnx --output ''"), ElementsAre("models"));
  EXPECT_THAT(bash("lathe completion ''"), ElementsAre("bash", "zsh", "fish"));
  EXPECT_THAT(bash("lathe verify ''"), ElementsAre("models"));
}

TEST(FishCompletion, OffersCommandsFlagsChoicesAndFiles) {
  if (!have("fish")) GTEST_SKIP() << "fish is not installed";
  auto fish = [](const std::string& line) {
    ShellResult r = shell("cd " + playground() + " && HOME=" + scratch_folder().string() + " fish -c \"" LATHE_BINARY
                          " completion fish | source; complete -C '" + line + "'\"");
    EXPECT_EQ(r.err, "") << line;
    std::vector<std::string> words;
    for (const std::string& one : lines(r.out)) words.push_back(one.substr(0, one.find('\t')));
    return words;
  };
  EXPECT_THAT(fish("lathe be"), ElementsAre("bench"));
  EXPECT_THAT(fish("lathe bench --pre"), ElementsAre("--precision"));
  EXPECT_THAT(fish("lathe bench --precision "), UnorderedElementsAre("fp32", "bf16"));
  EXPECT_THAT(fish("lathe bench ne"), Contains("net.onnx"));
  EXPECT_THAT(fish("lathe completion "), UnorderedElementsAre("bash", "zsh", "fish"));
  EXPECT_THAT(fish("lathe verify "), ElementsAre("models/"));
}

// _arguments itself needs a terminal: what it is given is caught, and the script must parse.
TEST(ZshCompletion, GivesArgumentsItsSpecifications) {
  if (!have("zsh")) GTEST_SKIP() << "zsh is not installed";
  std::string script = (scratch_folder() / "_lathe").string();
  ASSERT_EQ(shell(LATHE_BINARY " completion zsh > " + script).code, 0);
  ShellResult parsed = shell("zsh -n " + script);
  EXPECT_EQ(parsed.code, 0) << parsed.err;
  ShellResult r = shell("zsh -f -c 'compdef() { }; _arguments() { print -rl -- \"$@\" }; _describe() { print -rl -- $commands };"
                        " source " + script + "; words=(lathe be); CURRENT=2; _lathe; words=(lathe bench --pre); CURRENT=3; _lathe'");
  EXPECT_EQ(r.err, "");
  std::vector<std::string> given = lines(r.out);
  EXPECT_THAT(given, Contains(HasSubstr("bench:Measure latency")));
  EXPECT_THAT(given, Contains("--precision[fp32 or bf16 (as the model says, else fp32)]:TEXT:(fp32 bf16)"));
  EXPECT_THAT(given, Contains("1:MODEL:_files -g \"*.(onnx|lathe)\""));
}

TEST(ManPage, HasEveryCommandAndRendersWithoutWarnings) {
  ShellResult page = lathe_command("man");
  ASSERT_EQ(page.code, 0);
  for (const char* text : {".TH LATHE 1", ".SS lathe bench", "\\-\\-precision", "lathe bench model.onnx", ".SH EXIT STATUS"})
    EXPECT_THAT(page.out, HasSubstr(text));
  if (!have("man") || !have("groff")) GTEST_SKIP() << "man and groff are not installed";
  std::string file = (scratch_folder() / "lathe.1").string();
  write_file(file, page.out);
  ShellResult r = shell("LC_ALL=C.UTF-8 MANWIDTH=100 MANROFFOPT= man --warnings=w -l -E UTF-8 -P cat " + file);
  EXPECT_EQ(r.code, 0);
  EXPECT_EQ(r.err, "");
  EXPECT_THAT(r.out, HasSubstr("lathe bench"));
  EXPECT_THAT(r.out, Not(HasSubstr("\\fB")));
}

}  // namespace
}  // namespace lathe
