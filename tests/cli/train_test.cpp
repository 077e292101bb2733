// lathe train as a user calls it: what it leaves, how it stops and goes on, what it refuses; and what loads libtorch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "shell.h"
#include "tiny_models.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

const std::string kProgram = fs::path(LATHE_BINARY).parent_path() / "lathe-train";
bool trains() { return fs::exists(kProgram); }
#define NEEDS_TRAINING() \
  if (!trains()) GTEST_SKIP() << "this build has no libtorch"

// IDX files of noise with a bright quarter, which is the class.
std::string quarters(const fs::path& folder) {
  fs::create_directories(folder);
  std::mt19937 random(5);
  const auto number = [](uint32_t v) { return std::string{static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8), static_cast<char>(v)}; };
  for (const auto& [name, count] : {std::pair{"train", 400u}, {"t10k", 100u}}) {
    std::string pictures = number(0x803) + number(count) + number(28) + number(28), labels = number(0x801) + number(count);
    for (uint32_t i = 0; i < count; ++i) {
      labels += static_cast<char>(i % 4);
      for (uint32_t p = 0; p < 784; ++p) pictures += static_cast<char>(random() % 120 + (p / 28 / 14 * 2 + p % 28 / 14 == i % 4 ? 100 : 0));
    }
    std::ofstream(folder / (std::string(name) + "-images-idx3-ubyte"), std::ios::binary) << pictures;
    std::ofstream(folder / (std::string(name) + "-labels-idx1-ubyte"), std::ios::binary) << labels;
  }
  return folder.string();
}

class TrainCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = scratch_folder() / ("train_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    if (trains()) data_ = quarters(folder_ / "data");
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string out(const char* name) const { return (folder_ / name).string(); }
  std::string lenet(const std::string& folder, const std::string& more = "") const {
    return "train lenet5 --data " + data_ + " --epochs 3 --batch 32 --lr 0.003 --threads 1 -o " + folder + " " + more;
  }
  fs::path folder_;
  std::string data_;
};

TEST_F(TrainCommandTest, LeavesANetworkThatRuns) {
  NEEDS_TRAINING();
  const ShellResult r = lathe_command(lenet(out("a"), "--json"));
  ASSERT_EQ(r.code, 0) << r.err;
  const nlohmann::json j = nlohmann::json::parse(r.out);
  EXPECT_GT(j["test_accuracy"].get<double>(), 0.9);
  EXPECT_EQ(j["test_accuracy"], j["torch_test_accuracy"]);
  EXPECT_EQ(lathe_command("run " + out("a") + "/model.onnx --random 1").code, 0);
  const ShellResult again = lathe_command(lenet(out("a")));
  EXPECT_EQ(again.code, 2);
  EXPECT_THAT(again.err, ::testing::HasSubstr("--resume"));
}

TEST_F(TrainCommandTest, KilledAtAnyMomentItGoesOnToTheSameBits) {
  NEEDS_TRAINING();
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(lathe_command(lenet(out("whole"))).code, 0);
  double whole_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string whole = shell("sha256sum < " + out("whole") + "/model.onnx").out;
  const auto command = [&] {
    const bool first = !fs::exists(out("parts") + "/checkpoint.safetensors");
    return lenet(out("parts"), std::string("--checkpoint 0 ") + (first ? "--force" : "--resume"));
  };
  std::mt19937 random(3);
  int killed = 0;
  for (int i = 0; i < 20; ++i) {
    // From the start of libtorch to the end.
    const double after = whole_seconds * (0.4 + 0.6 * static_cast<double>(random() % 1000) / 1000);
    const ShellResult r = shell("timeout -s KILL " + std::to_string(after) + " " + LATHE_BINARY + " " + command() + " 2>&1");
    if (r.code == 0 && killed > 0) break;
    if (r.code == 0) {
      // Other programs made the first run slow: sooner next time.
      whole_seconds /= 2;
      fs::remove_all(out("parts"));
      continue;
    }
    ++killed;
    ASSERT_THAT(r.out, ::testing::Not(::testing::HasSubstr("error"))) << r.out;
  }
  if (!fs::exists(out("parts") + "/model.onnx")) {
    ASSERT_EQ(lathe_command(command()).code, 0);
  }
  EXPECT_GT(killed, 0);
  EXPECT_EQ(shell("sha256sum < " + out("parts") + "/model.onnx").out, whole);
}

TEST_F(TrainCommandTest, AnInterruptKeepsTheCheckpoint) {
  NEEDS_TRAINING();
  const std::string command = std::string(LATHE_BINARY) + " " + "train lenet5 --data " + data_ + " --epochs 4000 --threads 1 -o " + out("a");
  const ShellResult r = shell("timeout -s INT 4 " + command + " 2>&1");
  EXPECT_THAT(r.out, ::testing::HasSubstr("stopped"));
  EXPECT_TRUE(fs::exists(out("a") + "/checkpoint.safetensors"));
}

TEST_F(TrainCommandTest, AnInterruptThatComesTwiceIsOne) {
  NEEDS_TRAINING();
  const std::string command = std::string(LATHE_BINARY) + " train lenet5 --data " + data_ + " --epochs 4000 --threads 1 --checkpoint 0 -o " + out("a");
  const ShellResult r = shell(command + " & p=$!; while [ ! -e " + out("a") + "/checkpoint.safetensors ] && kill -0 $p; do sleep 0.1; done; kill -TERM $p; sleep 0.02; kill -TERM $p; wait $p");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.err, ::testing::HasSubstr("stopped"));
}

TEST_F(TrainCommandTest, AnInterruptedReproductionKeepsItsCheckpoints) {
  NEEDS_TRAINING();
  const ShellResult r = shell(std::string(LATHE_BINARY) + " reproduce resnet3d --quick --jobs 1 --keep " + out("a") + " & p=$!; while [ ! -e " + out("a") + " ] && kill -0 $p; do sleep 0.1; done; kill -TERM $p; wait $p");
  EXPECT_EQ(r.code, 1) << r.err;
  EXPECT_THAT(r.err, ::testing::HasSubstr("--resume"));
  int checkpoints = 0;
  for (const auto& entry : fs::recursive_directory_iterator(out("a"))) checkpoints += entry.path().filename() == "checkpoint.safetensors";
  EXPECT_EQ(checkpoints, 1);
}

TEST_F(TrainCommandTest, RefusalsAreOneLine) {
  NEEDS_TRAINING();
  const auto refuses = [&](const std::string& arguments, int code, const std::string& text) {
    const ShellResult r = lathe_command(arguments);
    EXPECT_EQ(r.code, code) << arguments << "\n" << r.err;
    EXPECT_THAT(r.err, ::testing::HasSubstr(text)) << arguments;
  };
  refuses("train nothing --data " + data_ + " -o " + out("b"), 2, "no model nothing");
  refuses("train lenet5 --data " + out("none") + " -o " + out("b"), 1, "none");
  refuses("train lenet5 --data " + data_ + " --optimizer adam -o " + out("b"), 2, "adam");
  refuses(lenet(out("b"), "--device tpu"), 2, "there are cpu, cuda");
  refuses("reproduce nasnet --only nothing", 2, "ScheduledDropPath beats none");
  refuses("reproduce nasnet --resume", 2, "--keep");
  refuses(lenet(out("b"), "--resume"), 1, "no checkpoint");
  refuses(lenet(out("b"), "--freeze 'nothing.*'"), 2, "nothing.*");
  refuses("finetune " + data_ + "/train-labels-idx1-ubyte --data " + data_ + " -o " + out("b"), 1, "train-labels");
  // A full disk: the limit on the size of files.
  const ShellResult full = shell("ulimit -f 100; " + std::string(LATHE_BINARY) + " " + lenet(out("c")) + " 2>&1");
  EXPECT_EQ(full.code, 1) << full.out;
  EXPECT_THAT(full.out, ::testing::HasSubstr("checkpoint.safetensors"));
  EXPECT_FALSE(fs::exists(out("c") + "/checkpoint.safetensors"));
}

TEST_F(TrainCommandTest, FinetuningMakesANewHead) {
  NEEDS_TRAINING();
  ASSERT_EQ(lathe_command("models lenet5 --classes 10 -o " + (folder_ / "ten.onnx").string()).code, 0);
  const ShellResult r = lathe_command("finetune " + (folder_ / "ten.onnx").string() + " --data " + data_ + " --epochs 3 --batch 32 --lr 0.003 --threads 1 -o " + out("a"));
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.err, ::testing::HasSubstr("4 classes"));
}

TEST(TrainingProgram, WithoutItTheCommandsSayWhatIsMissing) {
  const fs::path folder = scratch_folder() / "without_training";
  fs::create_directories(folder);
  fs::copy_file(LATHE_BINARY, folder / "lathe", fs::copy_options::overwrite_existing);
  for (const char* arguments : {"train lenet5 --data fashion-mnist -o out", "reproduce nasnet --quick"}) {
    const ShellResult r = shell((folder / "lathe").string() + " " + arguments);
    EXPECT_GT(r.code, 0) << arguments;
    EXPECT_THAT(r.err, ::testing::HasSubstr("lathe-train")) << arguments;
  }
  fs::remove_all(folder);
}

TEST(TrainingProgram, NothingElseLoadsLibtorch) {
  const auto loads = [](const std::string& file) { return shell("ldd " + file + " | grep -c libtorch").out; };
  EXPECT_EQ(loads(LATHE_BINARY), "0\n");
  for (const auto& entry : fs::directory_iterator(LATHE_BUILD))
    if (entry.path().filename() == "liblathe.so") {
      EXPECT_EQ(loads(entry.path()), "0\n");
    }
  if (trains()) {
    EXPECT_NE(loads(kProgram), "0\n");
  }
}

}  // namespace
}  // namespace lathe
