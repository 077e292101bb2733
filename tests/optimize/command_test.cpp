// `lathe optimize` through the real binary: what it writes, what it refuses, and its exit codes.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <random>

#include "fixture.h"
#include "formats/npy.h"
#include "optimize/report.h"
#include "optimize/store.h"
#include "optimize/technique.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

struct Outcome {
  int code;
  std::string out, error;
};

class CommandTest : public OptimizeTest {
 protected:
  // Standard output and error by way of files, so that neither is lost.
  Outcome lathe(const std::string& arguments) {
    std::string command = fmt::format("XDG_CACHE_HOME='{}' '{}' {} >'{}' 2>'{}'", testing::TempDir() + "/lathe-command-cache", LATHE_BINARY, arguments, path("stdout"), path("stderr"));
    int status = std::system(command.c_str());
    auto text = [](const std::string& file) {
      std::vector<uint8_t> bytes = read_file(file, 1 << 26);
      return std::string(bytes.begin(), bytes.end());
    };
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text(path("stdout")), text(path("stderr"))};
  }
  void make_model(const std::string& name = "m.onnx") {
    export_onnx(classifier(), path(name));
    make_pictures("p", 4, false);
  }
  std::string optimize(const std::string& more) { return fmt::format("optimize '{}' --data '{}' --seconds 0.05 --store '{}' {}", path("m.onnx"), path("p"), path("trials.db"), more); }
  json read_json(const std::string& file) {
    std::vector<uint8_t> bytes = read_file(path(file), 1 << 26);
    return json::parse(bytes.begin(), bytes.end());
  }
};

TEST_F(CommandTest, WritesModelAndReports) {
  make_model();
  Outcome r = lathe(optimize("--budget 'drop<=50%' -o '" + path("out") + "'"));
  ASSERT_EQ(r.code, 0) << r.error;
  EXPECT_THAT(r.out, HasSubstr("bf16"));
  EXPECT_THAT(r.error, HasSubstr("seed 1"));
  EXPECT_THAT(r.error, HasSubstr("measuring bf16"));
  EXPECT_TRUE(fs::exists(path("out/report.html")));
  json report = read_json("out/report.json");
  EXPECT_FALSE(report["best"].is_null());
  for (const char* key : {"speedup", "drop", "size_ratio", "latency_ms", "techniques"}) EXPECT_TRUE(report["best"].contains(key)) << key;
  EXPECT_EQ(report["trials"][0]["name"], "original");
  EXPECT_THAT(report["command"].get<std::string>(), HasSubstr("--budget 'drop<=50%'"));
  Outcome run = lathe(fmt::format("run '{}' '{}' --json", path("out/model.onnx"), path("p/red0.png")));
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_EQ(json::parse(run.out)["classes"][0][0]["index"], 0);
}

TEST_F(CommandTest, Bf16ModelsComeBackAsBf16) {
  make_model();
  // The only candidate under this size.
  Outcome all = lathe(optimize("--techniques bf16 -o '" + path("a") + "' --budget 'error<=50%'"));
  ASSERT_EQ(all.code, 0) << all.error;
  int64_t size = read_json("a/report.json")["trials"][1]["size_bytes"].get<int64_t>();
  Outcome r = lathe(optimize(fmt::format("--techniques bf16 --budget 'size<={}B' -o '{}'", size, path("b"))));
  ASSERT_EQ(r.code, 0) << r.error;
  EXPECT_EQ(read_json("b/report.json")["best"]["name"], "bf16");
  Outcome as_is = lathe("bench --runs 1 --seconds 0 --json '" + path("b/model.onnx") + "'");
  EXPECT_EQ(json::parse(as_is.out)["precision"], "bf16");
  Outcome wide = lathe("bench --runs 1 --seconds 0 --json --precision fp32 '" + path("b/model.onnx") + "'");
  EXPECT_EQ(json::parse(wide.out)["precision"], "fp32");
}

TEST_F(CommandTest, ExitThreeLeavesTheReportAlone) {
  make_model();
  Outcome r = lathe(optimize("--json --budget 'latency<=1ns' -o '" + path("out") + "'"));
  EXPECT_EQ(r.code, 3);
  EXPECT_THAT(r.error, HasSubstr("No candidate meets the budget. The nearest is"));
  EXPECT_TRUE(fs::exists(path("out/report.json")));
  EXPECT_TRUE(fs::exists(path("out/report.html")));
  EXPECT_FALSE(fs::exists(path("out/model.onnx")));
  json report = json::parse(r.out);
  EXPECT_TRUE(report["best"].is_null());
  EXPECT_TRUE(report["nearest"].is_string());
}

TEST_F(CommandTest, RefusesBeforeMeasuring) {
  make_model();
  auto expect = [&](const std::string& arguments, int code, const std::string& text) {
    Outcome r = lathe(arguments);
    EXPECT_EQ(r.code, code) << arguments << r.error;
    EXPECT_THAT(r.error, HasSubstr(text)) << arguments;
    EXPECT_THAT(r.error, testing::Not(HasSubstr("measuring"))) << arguments;
  };
  std::string out = " -o '" + path("out") + "'";
  expect(optimize("--budget 'speed<=1' " + out), 2, "position 1");
  expect(optimize("--time soon" + out), 2, "--time soon");
  expect(optimize("--techniques warp" + out), 2, "no technique 'warp'");
  expect(optimize("-o '" + path("no/such/out") + "'"), 1, "does not exist");
  expect("optimize '" + path("m.onnx") + "' --data '" + path("none") + "'" + out, 1, "no such file");
  expect("optimize '" + path("none.onnx") + "' --data '" + path("p") + "'" + out, 1, "cannot open model");
  expect("optimize '" + path("m.onnx") + "'" + out, 2, "--data");
  fs::create_directories(path("out"));
  write_file(path("out/precious.txt"), "keep me");
  expect(optimize(out), 2, "it exists");
  expect(optimize("--force" + out), 2, "other things than a result");
  EXPECT_TRUE(fs::exists(path("out/precious.txt")));
}

TEST_F(CommandTest, ForceReplacesAnEarlierResultAndLeavesNothingBeside) {
  make_model();
  std::string arguments = optimize("--techniques clean -o '" + path("out") + "/'");
  ASSERT_EQ(lathe(arguments).code, 0);
  EXPECT_EQ(lathe(arguments).code, 2);
  write_file(path("out/model.onnx"), "old");
  EXPECT_EQ(lathe(arguments + " --force").code, 0);
  EXPECT_GT(fs::file_size(path("out/model.onnx")), 100u);
  for (const auto& entry : fs::directory_iterator(folder_)) EXPECT_EQ(entry.path().filename().string().find("out."), std::string::npos) << entry.path();
}

TEST_F(CommandTest, TheHtmlReportEscapesWhatItQuotes) {
  std::string name = "<script>alert('&')<b>.onnx";
  export_onnx(classifier(), path("x.onnx"));
  fs::rename(path("x.onnx"), path(name));
  make_pictures("p", 2, false);
  std::string quoted = "\"" + path(name) + "\"";
  Outcome r = lathe("optimize " + quoted + " --data '" + path("p") + "' --seconds 0.05 --store none --techniques bf16 -o '" + path("out") + "'");
  ASSERT_TRUE(r.code == 0 || r.code == 3) << r.error;
  std::vector<uint8_t> bytes = read_file(path("out/report.html"), 1 << 26);
  std::string html(bytes.begin(), bytes.end());
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;b&gt;"));
  EXPECT_EQ(html.find("http://"), html.find("http://www.w3.org/2000/svg")) << "nothing is loaded from elsewhere";
  EXPECT_THAT(html, HasSubstr("<svg"));
}

// Ctrl-C ends the search with what it has, and asked again it goes on; killed, it goes on as well, and answers the same ever after.
TEST_F(CommandTest, InterruptedAndKilledItGoesOn) {
  make_model();
  auto start = [&](const std::string& out, const std::string& store) {
    std::vector<std::string> words = {LATHE_BINARY, "optimize", path("m.onnx"), "--data", path("p"), "--seconds", "0.05", "--budget", "drop<=50%", "--store", path(store), "--force", "-o", path(out)};
    pid_t child = ::fork();
    if (child == 0) {
      ::setenv("XDG_CACHE_HOME", (testing::TempDir() + "/lathe-command-cache").c_str(), 1);
      std::freopen("/dev/null", "w", stdout);
      std::freopen(path("stderr").c_str(), "w", stderr);
      std::vector<char*> arguments;
      for (std::string& w : words) arguments.push_back(w.data());
      arguments.push_back(nullptr);
      ::execv(LATHE_BINARY, arguments.data());
      ::_exit(127);
    }
    return child;
  };
  auto end = [](pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  };
  auto rows = [&](const std::string& store) -> int64_t { return fs::exists(path(store)) && fs::file_size(path(store)) > 0 ? TrialStore(path(store)).count() : 0; };
  lathe("device");  // what the first command on a machine measures once is not to be interrupted
  pid_t child = start("a", "a.db");
  for (int i = 0; i < 600 && rows("a.db") < 4; ++i) ::usleep(20000);
  ASSERT_GE(rows("a.db"), 4);
  ::kill(child, SIGINT);
  int status = end(child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  json stopped = read_json("a/report.json");
  EXPECT_TRUE(fs::exists(path("a/model.onnx")));
  EXPECT_TRUE(stopped["interrupted"].get<bool>());
  int64_t before = rows("a.db");
  EXPECT_EQ(WEXITSTATUS(end(start("b", "a.db"))), 0);
  json whole = read_json("b/report.json");
  EXPECT_FALSE(whole["interrupted"].get<bool>());
  // The interrupted run may have confirmed a winner that is none any more.
  EXPECT_LE(whole["store"]["found"].get<int64_t>() + whole["store"]["measured"].get<int64_t>(), rows("a.db"));
  EXPECT_GT(whole["store"]["found"].get<int64_t>(), 0);
  EXPECT_GT(rows("a.db"), before);

  std::mt19937 random(3);
  for (int kill = 0; kill < 20; ++kill) {
    int64_t had = rows("c.db");
    child = start("c", "c.db");
    ::usleep(50000 + random() % 250000);
    ::kill(child, SIGKILL);
    end(child);
    EXPECT_GE(rows("c.db"), had) << "a trial is lost";
  }
  int64_t kept = rows("c.db");
  EXPECT_EQ(WEXITSTATUS(end(start("d", "c.db"))), 0);
  json first = read_json("d/report.json");
  EXPECT_LE(first["store"]["found"].get<int64_t>(), kept);
  EXPECT_GT(first["store"]["found"].get<int64_t>() * 2, kept);
  EXPECT_EQ(WEXITSTATUS(end(start("e", "c.db"))), 0);
  json second = read_json("e/report.json");
  EXPECT_EQ(second["store"]["measured"], 0);
  for (const char* key : {"best", "trials", "front", "baseline", "reason", "layers"}) EXPECT_EQ(first[key], second[key]) << key;
}

TEST_F(CommandTest, ReportsHoldThePicturesAndTheWayBack) {
  make_model();
  Outcome r = lathe(optimize("--trials 8 --techniques bf16,clean --metric top1 --budget 'drop<=50%' -o '" + path("out") + "'"));
  ASSERT_EQ(r.code, 0) << r.error;
  EXPECT_THAT(r.out, HasSubstr("9 samples for evaluation and 3 others for calibration"));
  std::vector<uint8_t> bytes = read_file(path("out/report.html"), 1 << 26);
  std::string html(bytes.begin(), bytes.end());
  for (const char* part : {"drop of top1, points", "size of the file, MB", "bits of a weight", "How to get the same", "for calibration"}) EXPECT_THAT(html, HasSubstr(part));
  json report = read_json("out/report.json");
  EXPECT_EQ(report["metric"]["name"], "top1");
  EXPECT_EQ(report["layer_choices"].size(), 3u);
  EXPECT_EQ(report["data"]["calibration"], 3);
}

TEST_F(CommandTest, EvaluateMeasuresAndCompares) {
  make_model();
  export_onnx(classifier(false, 24), path("other.onnx"));
  std::string head = fmt::format("evaluate '{}' --data '{}' ", path("m.onnx"), path("p"));
  Outcome r = lathe(head + "--json");
  ASSERT_EQ(r.code, 0) << r.error;
  json j = json::parse(r.out);
  EXPECT_EQ(j["metric"], "top1");
  EXPECT_EQ(j["against"], "labels");
  EXPECT_GT(j["value"]["value"].get<double>(), 0.8);
  EXPECT_LE(j["value"]["low"].get<double>(), j["value"]["value"].get<double>());
  EXPECT_TRUE(j["calibration_error"].is_number());
  EXPECT_TRUE(j["other"].is_null());
  r = lathe(head + fmt::format("--against '{}' --json", path("other.onnx")));
  ASSERT_EQ(r.code, 0) << r.error;
  j = json::parse(r.out);
  EXPECT_EQ(j["other"]["different"].get<int64_t>(), static_cast<int64_t>(j["other"]["differences"].size()));
  EXPECT_TRUE(j["other"]["mcnemar_p"].is_number());
  r = lathe(head + fmt::format("--against '{}' --metric cosine", path("m.onnx")));
  EXPECT_THAT(r.out, HasSubstr("same class on 100.00 %"));
  EXPECT_EQ(lathe(head + "--metric map").code, 2);
  EXPECT_EQ(lathe(head + "--labels /none").code, 1);
  fs::remove(path("p/labels.tsv"));
  r = lathe(head);
  EXPECT_EQ(r.code, 2);
  EXPECT_THAT(r.error, HasSubstr("nothing to measure the answers against"));
}

TEST_F(CommandTest, TechniquesAreListed) {
  Outcome r = lathe("techniques --json");
  ASSERT_EQ(r.code, 0);
  json all = json::parse(r.out);
  ASSERT_EQ(all.size(), catalogue().size());
  for (const json& t : all) {
    Outcome one = lathe("techniques " + t["key"].get<std::string>());
    EXPECT_EQ(one.code, 0);
    EXPECT_THAT(one.out, HasSubstr(t["summary"].get<std::string>()));
    EXPECT_EQ(json::parse(lathe("techniques --json " + t["key"].get<std::string>()).out), t);
  }
  EXPECT_EQ(lathe("techniques warp").code, 2);
}

TEST_F(CommandTest, ReproduceTellsPublishedAndMeasured) {
  Outcome r = lathe("reproduce");
  EXPECT_THAT(r.out, HasSubstr("quantization-survey"));
  EXPECT_EQ(lathe("reproduce none").code, 2);
  EXPECT_EQ(lathe("reproduce quantization-survey --assets /none").code, 1);
  r = lathe("reproduce quantization-survey --quick --json" + (fs::exists(fs::path(LATHE_ASSETS) / "models") ? fmt::format(" --assets '{}'", LATHE_ASSETS) : ""));
  json j = json::parse(r.out);
  EXPECT_EQ(r.code, j["failed"].get<int>() > 0 ? 1 : 0);
  EXPECT_EQ(j["failed"], 0) << r.out;
  for (const json& c : j["checks"])
    for (const char* key : {"name", "published", "measured", "passes", "result"}) EXPECT_FALSE(c[key].get<std::string>().empty()) << key;
}

TEST_F(CommandTest, HelpHasExamples) {
  Outcome r = lathe("optimize --help");
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.out, HasSubstr("Examples:"));
}

// Real classifiers on a few real pictures.
TEST_F(CommandTest, SharedClassifiers) {
  fs::path models = fs::path(LATHE_ASSETS) / "models", pictures = fs::path(LATHE_ASSETS) / "images/imagenet";
  if (!fs::exists(models) || !fs::exists(pictures)) GTEST_SKIP() << "no shared assets";
  for (const auto& [name, options] : std::vector<std::pair<std::string, std::string>>{
           {"mobilenet_v1_025_224", "--mean 0.5 --std 0.5"}, {"mobilenet_v2_100_224", "--mean 0.5 --std 0.5"}, {"squeezenet1_1", ""}}) {
    Outcome r = lathe(fmt::format("optimize '{}' --data '{}' --samples 24 --seconds 0.2 --trials 12 --store none --budget 'drop<=20%' --json {} -o '{}'",
                                  (models / (name + ".onnx")).string(), pictures.string(), options, path(name)));
    ASSERT_EQ(r.code, 0) << name << r.error;
    json report = json::parse(r.out);
    EXPECT_EQ(report["data"]["samples"], 24);
    EXPECT_EQ(report["data"]["label_offset"], name == "mobilenet_v2_100_224" ? 1 : 0);
    EXPECT_GT(report["baseline"]["accuracy"]["value"].get<double>(), 0.4) << name;
    for (const json& t : report["trials"]) {
      if (t["name"] != "bf16") continue;
      EXPECT_GT(t["agreement"]["value"].get<double>(), 0.8) << name;
      EXPECT_LT(t["size_bytes"].get<double>(), 0.6 * report["baseline"]["size_bytes"].get<double>()) << name;
    }
  }
}

}  // namespace
}  // namespace lathe
