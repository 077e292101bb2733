// Every command under inputs and outputs that fail: one clear error, the designed exit code, nothing half-written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/file.h"
#include "shell.h"
#include "tiny_models.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// A folder of its own for each test, so that what a command leaves behind shows.
class BadInputs : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string file(const std::string& name, std::string_view contents) const {
    write_file(path(name), contents);
    return path(name);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : fs::directory_iterator(folder_)) list.push_back(entry.path().filename());
    return list;
  }
  // Exit 1 by an error of one line that names `named`.
  static void expect_error(const std::string& arguments, const std::string& named, const std::string& after = "") {
    SCOPED_TRACE(arguments);
    ShellResult r = shell("timeout 60 " LATHE_BINARY " " + arguments + after);
    EXPECT_EQ(r.code, 1) << r.err;
    EXPECT_THAT(r.err, testing::StartsWith("lathe: error: "));
    EXPECT_THAT(r.err, HasSubstr(named));
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
  }

  fs::path folder_ = scratch_folder() / "bad";
};

std::string big_endian(uint32_t n) {
  return {static_cast<char>(n >> 24), static_cast<char>(n >> 16), static_cast<char>(n >> 8), static_cast<char>(n)};
}

TEST_F(BadInputs, ModelsThatAreNone) {
  fs::create_directories(path("folder.onnx"));
  fs::create_directories(path("folder.lathe"));
  file("empty.onnx", "");
  file("empty.lathe", "");
  file("text.onnx", "hello, this is not a model at all");
  file("cut.lathe", "\x89LATHE\n\x1a\x01");
  file("zeros.lathe", std::string(4096, '\0'));
  file("zeros.onnx", std::string(4096, '\0'));
  fs::create_symlink("loop.onnx", path("loop.onnx"));
  std::string whole = path("whole.lathe");
  ASSERT_EQ(lathe_command("pack " + classifier() + " -o " + whole).code, 0);
  std::vector<uint8_t> bytes = read_file(whole, 1 << 24);
  file("half.lathe", {reinterpret_cast<const char*>(bytes.data()), bytes.size() / 2});
  bytes[bytes.size() / 2] ^= 1;
  bytes[100] ^= 1;
  file("flipped.lathe", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  std::vector<std::string> before = names();
  for (std::string model : {"absent.onnx", "absent.lathe", "folder.onnx", "folder.lathe", "empty.onnx", "empty.lathe", "text.onnx",
                            "cut.lathe", "zeros.lathe", "zeros.onnx", "loop.onnx", "half.lathe", "flipped.lathe"}) {
    for (const char* command : {"run --random 1", "inspect", "bench", "plan"}) expect_error(std::string(command) + " " + path(model), model);
    expect_error("convert " + path(model) + " -o " + path("out"), model);
    // A .lathe file, whole or not, is never packed again, which is a mistake of use.
    if (model != "cut.lathe" && model != "half.lathe" && model != "flipped.lathe")
      expect_error("pack " + path(model) + " -o " + path("out"), model);
  }
  EXPECT_THAT(names(), testing::UnorderedElementsAreArray(before)) << "a refused model leaves no file";
}

TEST_F(BadInputs, PicturesAndArraysThatAreNone) {
  std::string png = "\x89PNG\r\n\x1a\n";
  std::string header = "IHDR" + big_endian(0x7fffffff) + big_endian(0x7fffffff) + std::string("\x08\x02\0\0\0", 5);
  fs::create_directories(path("folder.png"));
  file("empty.png", "");
  file("text.jpg", "no picture");
  file("bomb.png", png + big_endian(13) + header + big_endian(0) + big_endian(0) + "IDAT" + big_endian(0));
  file("cut.png", png + big_endian(13) + "IHDR");
  file("cut.jpg", "\xff\xd8\xff\xe0");
  file("bomb.jpg", std::string("\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00", 21));
  file("cut.webp", std::string("RIFF\x24\0\0\0WEBPVP8L", 16));
  file("bomb.webp", std::string("RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0", 34));
  file("empty.npy", "");
  file("cut.npy", std::string("\x93NUMPY\x01\x00\x76\x00{'descr'", 18));
  auto npy = [](const std::string& shape, const std::string& type = "<f4") {
    std::string text = "{'descr': '" + type + "', 'fortran_order': False, 'shape': (" + shape + "), }";
    text.resize(118, ' ');
    return std::string("\x93NUMPY\x01\x00\x76\x00", 10) + text;
  };
  file("huge.npy", npy("9223372036854775807, 9223372036854775807"));
  file("large.npy", npy("1099511627776,"));
  file("negative.npy", npy("-1, 3"));
  file("short.npy", npy("1, 3, 8, 8") + "1234");
  file("object.npy", npy("1,", "|O") + "12345678");
  file("empty.npz", "");
  file("cut.npz", std::string("PK\x03\x04\x14\0\0\0\x08\0", 10));
  std::vector<std::string> inputs = names(), before = inputs;
  inputs.push_back("absent.png");
  inputs.push_back("absent.npy");
  for (const std::string& input : inputs) expect_error("run " + classifier() + " --output " + path("out") + " " + path(input), input);
  EXPECT_THAT(names(), testing::UnorderedElementsAreArray(before));
}

TEST_F(BadInputs, PreprocessingThatMakesNoSense) {
  for (std::string text : {"", "[]", "{", "{\"resize\": -1}", "{\"resize\": 1e99}", "{\"crop\": [1]}", "{\"std\": 0}", "{\"mean\": \"red\"}",
                           "{\"layout\": \"CHWN\"}", "{\"flavour\": 1}", "null", "{\"scale\": null}"}) {
    file("steps.json", text);
    // The steps are read once the picture is, so the picture must be whole: the one pixel of a lossless WebP.
    static const unsigned char webp[] = {0x52, 0x49, 0x46, 0x46, 0x1a, 0, 0, 0, 0x57, 0x45, 0x42, 0x50, 0x56, 0x50, 0x38, 0x4c, 0x0d,
                                         0,    0,    0,    0x2f, 0, 0, 0, 0x10, 0x07, 0x10, 0x11, 0x11, 0x88, 0x88, 0xfe, 0x07, 0};
    std::string pixel = file("p.webp", {reinterpret_cast<const char*>(webp), sizeof webp});
    expect_error("run " + classifier() + " " + pixel + " --preprocess " + path("steps.json"), "steps.json");
  }
}

TEST_F(BadInputs, OutputsThatCannotBeWritten) {
  std::string model = classifier();
  file("plain", "a file where a folder belongs");
  fs::create_directories(path("folder"));
  for (std::string output : {path("plain/out"), path("none/out"), path("folder"), std::string("/dev/full")}) {
    expect_error("convert " + model + " -o " + output, output);
    expect_error("pack " + model + " -o " + output, output);
    expect_error("plan " + model + " --svg " + output, output, " >/dev/null");
  }
  expect_error("run " + model + " --random 1 --output " + path("plain"), path("plain"), " >/dev/null");
  EXPECT_THAT(names(), testing::UnorderedElementsAre("plain", "folder"));
  EXPECT_TRUE(fs::is_character_file("/dev/full")) << "a device is written to, never replaced";
}

TEST_F(BadInputs, AFullDiskBehindStandardOutputIsAnError) {
  for (std::string command : {"inspect " + classifier(), "inspect --json " + classifier(), "run --random 1 " + classifier(),
                              "plan " + classifier(), std::string("man"), std::string("completion bash"), std::string("--help")})
    expect_error(command, "No space left", " >/dev/full");
}

TEST_F(BadInputs, ABrokenPipeEndsQuietly) {
  ShellResult r = shell("{ " LATHE_BINARY " man; echo $? > " + path("code") + "; } | true");
  EXPECT_EQ(r.err, "");
}

TEST_F(BadInputs, OutputNamesStayInTheFolder) {
  for (std::string name : {"../../escaped", "..", "/etc/escaped", "a/../../b"}) {
    Graph g;
    ValueId y = g.add("Relu", {g.add_input("x", DType::kF32, Shape{2})});
    g[y].name = name;
    g.outputs = {y};
    infer_shapes(g);
    export_onnx(g, path("names.onnx"));
    fs::remove_all(path("deep"));
    ShellResult r = lathe_command("run " + path("names.onnx") + " --random 1 --output " + path("deep/er/out"));
    ASSERT_EQ(r.code, 0) << r.err;
    size_t files = 0;
    for (const auto& entry : fs::recursive_directory_iterator(path("deep")))
      if (entry.is_regular_file()) {
        EXPECT_EQ(entry.path().parent_path().filename(), "out") << entry.path();
        ++files;
      }
    EXPECT_EQ(files, 1u) << name;
  }
}

// The handler is what a signal runs; the files are those that a command has open when one comes.
TEST_F(BadInputs, FilesThatAreNotCommittedCanBeRemovedAtOnce) {
  {
    AtomicFile out(path("m.lathe"));
    out.write("half");
    EXPECT_EQ(names().size(), 1u);
    remove_uncommitted_files();
    EXPECT_TRUE(names().empty());
  }
  write_file(path("whole"), "whole");
  remove_uncommitted_files();
  EXPECT_THAT(names(), testing::ElementsAre("whole"));
}

TEST_F(BadInputs, AnInterruptedCommandEndsByItsSignalAndLeavesNothing) {
  ShellResult r = shell("timeout --preserve-status -s INT 1 " LATHE_BINARY " bench " + classifier() + " --seconds 60 --profile " + path("trace.json"));
  EXPECT_EQ(r.code, 130) << r.err;
  EXPECT_TRUE(names().empty());
}

}  // namespace
}  // namespace lathe
