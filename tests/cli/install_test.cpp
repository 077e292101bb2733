// Installs lathe under a prefix of its own, builds examples/ against that, and runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shell.h"
#include "tiny_models.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class InstallTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    fs::remove_all(prefix());
    ShellResult r = shell(LATHE_CMAKE " --install " LATHE_BUILD " --prefix " + prefix());
    ASSERT_EQ(r.code, 0) << r.out << r.err;
  }
  static void TearDownTestSuite() { fs::remove_all(prefix()); }

  static std::string prefix() { return (scratch_folder() / "prefix").string(); }
  static std::string one_line(std::string text) {
    while (text.ends_with('\n')) text.pop_back();
    return text;
  }
};

TEST_F(InstallTest, HasEverythingInItsPlace) {
  for (const char* pattern : {"bin/lathe", "include/lathe/lathe.h", "include/lathe/network.h", "include/lathe/version.h",
                              "share/man/man1/lathe.1", "share/bash-completion/completions/lathe", "share/zsh/site-functions/_lathe",
                              "share/fish/vendor_completions.d/lathe.fish", "share/doc/lathe/LICENSE", "share/lathe/devices/*.json",
                              "lib*/liblathe.so lib/*/liblathe.so 2>/dev/null", "lib*/cmake/lathe/lathe-config.cmake lib/*/cmake/lathe/lathe-config.cmake 2>/dev/null"})
    EXPECT_NE(shell("cd " + prefix() + " && ls -d " + pattern).out, "") << pattern;
  ShellResult version = shell(prefix() + "/bin/lathe --version");
  EXPECT_EQ(version.code, 0) << version.err;
  // Public headers must not need anything that is not installed.
  ShellResult leaks = shell("grep -rnE 'include [<\"](core|graph|fmt|google|onnx|dnnl|nlohmann)' " + prefix() + "/include");
  EXPECT_EQ(leaks.out, "");
}

TEST_F(InstallTest, ShowsOnlyItsInterface) {
  if (!have("nm")) GTEST_SKIP() << "nm is not installed";
  std::string library = one_line(shell("find " + prefix() + " -name 'liblathe.so'").out);
  ShellResult r = shell("nm -DC --defined-only " + library + " | cut -d' ' -f3-");
  EXPECT_THAT(r.out, HasSubstr("lathe::Network::open"));
  EXPECT_THAT(r.out, HasSubstr("lathe_network_open"));
  for (const char* inner : {"lathe::Session", "lathe::import_onnx", "lathe::CompiledModel", "fmt::", "google::protobuf", "dnnl::", "nlohmann"})
    EXPECT_THAT(r.out, testing::Not(HasSubstr(inner)));
  if (have("readelf")) {
    EXPECT_THAT(shell("readelf -d " + library + " | grep SONAME").out, HasSubstr("liblathe.so.0.1"));
  }
}

TEST_F(InstallTest, ExamplesBuildAndRunAgainstIt) {
  std::string build = (scratch_folder() / "examples").string(), flags = LATHE_EXAMPLE_FLAGS;
  fs::remove_all(build);
  ShellResult r = shell(LATHE_CMAKE " -S " LATHE_SOURCE "/examples -G Ninja -B " + build + " -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=" + prefix() +
                        " -DCMAKE_C_FLAGS='-Wall -Wextra -Werror " + flags + "' -DCMAKE_CXX_FLAGS='-Wall -Wextra -Werror " + flags + "' && " +
                        LATHE_CMAKE " --build " + build);
  ASSERT_EQ(r.code, 0) << r.out << r.err;
  EXPECT_THAT(shell("grep lathe_DIR " + build + "/CMakeCache.txt").out, HasSubstr(prefix())) << "another lathe was found";
  std::string model = classifier();
  ShellResult cpp = shell(build + "/classify " + model), c = shell(build + "/classify_c " + model);
  EXPECT_EQ(cpp.code, 0) << cpp.err;
  EXPECT_EQ(c.code, 0) << c.err;
  EXPECT_THAT(cpp.out, HasSubstr("class "));
  EXPECT_EQ(cpp.out, c.out) << "C and C++ must agree";
  ShellResult profile = shell(build + "/profile " + model + " 2");
  EXPECT_EQ(profile.code, 0) << profile.err;
  EXPECT_THAT(profile.out, HasSubstr("conv"));
  EXPECT_EQ(shell(build + "/classify /none.onnx").code, 1);
}

TEST_F(InstallTest, PkgConfigFindsIt) {
  if (!have("pkg-config")) GTEST_SKIP() << "pkg-config is not installed";
  std::string folder = one_line(shell("dirname $(find " + prefix() + " -name lathe.pc)").out);
  std::string source = (scratch_folder() / "version.c").string(), program = (scratch_folder() / "version").string();
  ShellResult r = shell("export PKG_CONFIG_PATH=" + folder + "; printf '#include <lathe/lathe.h>\\n#include <stdio.h>\\n"
                        "int main(void) { puts(lathe_version()); return 0; }\\n' > " + source + " && cc " LATHE_EXAMPLE_FLAGS " " + source + " -o " + program +
                        " $(pkg-config --cflags --libs lathe) && LD_LIBRARY_PATH=$(pkg-config --variable=libdir lathe) " + program +
                        " && pkg-config --modversion lathe");
  EXPECT_EQ(r.code, 0) << r.err;
  std::string version = r.out.substr(0, r.out.find('\n') + 1);
  EXPECT_EQ(r.out, version + version);
}

}  // namespace
}  // namespace lathe
