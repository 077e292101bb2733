// The commands through the real binary: what they print, write and refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "formats/image.h"
#include "formats/npy.h"
#include "runtime/model.h"
#include "shell.h"
#include "tiny_models.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

std::string in_scratch(const std::string& name) { return (scratch_folder() / name).string(); }

// Parsing fails unless stdout is one JSON value and nothing else.
json json_of(const std::string& arguments) {
  ShellResult r = lathe_command(arguments + " --json");
  EXPECT_EQ(r.code, 0) << arguments << "\n" << r.err;
  EXPECT_EQ(r.err, "") << "progress is for terminals";
  json j = json::parse(r.out, nullptr, false);
  EXPECT_TRUE(j.is_object()) << arguments << "\n" << r.out;
  return j;
}

void write_raw(const std::string& path, const Tensor& t) {
  write_file(path, {static_cast<const char*>(t.raw()), t.bytes()});
}

TEST(RunCommand, TakesSeveralInputsOfEveryKind) {
  std::string model = two_inputs();
  Tensor a = Tensor::of_f32({2, 3}, {1, 2, 3, 4, 5, 6}), b(DType::kI64, {2, 3});
  for (int64_t i = 0; i < 6; ++i) b.set_int(i, 10 * i);
  write_npy(in_scratch("a.npy"), a);
  write_raw(in_scratch("a.raw"), a);
  write_raw(in_scratch("b.bin"), b);
  write_npz(in_scratch("both.npz"), {{"a", a}, {"deep/b", b}});
  for (std::string inputs : {"a.npy b.bin", "a.raw b.bin", "both.npz", "--input deep/b=b.bin a.npy", "--input deep/b=both.npz --input a=a.raw"}) {
    std::string out = in_scratch("out");
    fs::remove_all(out);
    ShellResult r = shell("cd " + scratch_folder().string() + " && " + LATHE_BINARY + " run " + model + " " + inputs + " --output " + out);
    ASSERT_EQ(r.code, 0) << inputs << "\n" << r.err;
    EXPECT_THAT(read_npy(out + "/deep_sum.npy").to_f32(), testing::ElementsAre(1, 12, 23, 34, 45, 56)) << inputs;
  }
}

TEST(RunCommand, SaysWhatIsWrongWithInputs) {
  std::string model = two_inputs();
  write_file(in_scratch("short.raw"), "12345");
  struct Case { std::string arguments; int code; std::string text; };
  for (const Case& c : {Case{"", 2, "input 'a' (f32 [2, 3]) is not given"}, {"--input a", 2, "NAME=FILE"},
                        {"--input q=short.raw", 2, "it has 'a', 'deep/b'"}, {"--input a=" + in_scratch("short.raw"), 1, "holds 5 bytes"},
                        {"--input deep/b=" + in_scratch("short.raw"), 1, "no whole number"}, {"--input a=/none.npy", 1, "/none.npy"},
                        {"--shape a=2xx3 --random 1", 2, "1x3x224x224"}, {"--shape q=2 --random 1", 2, "no input"},
                        {"--shape a=2x4 --random 1", 1, "a"}, {"--random 1 --precision fp8", 2, "fp8"},
                        {"--random 1 --labels /none", 1, "/none"}, {"--random 1 --annotate x.png", 2, "nothing to draw"}}) {
    ShellResult r = lathe_command("run " + model + " " + c.arguments);
    EXPECT_EQ(r.code, c.code) << c.arguments << r.err;
    EXPECT_THAT(r.err, HasSubstr(c.text)) << c.arguments;
  }
}

TEST(RunCommand, PreparesPicturesAsTheFileBesideTheModelSays) {
  std::string model = classifier(), picture = in_scratch("p.png"), beside = in_scratch("classifier.preprocess.json");
  Image image{20, 10, std::vector<uint8_t>(600, 200)};
  write_png(picture, image);
  fs::remove(beside);
  json imagenet = json_of("run " + model + " " + picture);
  EXPECT_FLOAT_EQ(imagenet["preprocess"]["mean"][0].get<float>(), 0.485f);
  ASSERT_EQ(imagenet["classes"].size(), 1u);
  EXPECT_EQ(imagenet["classes"][0].size(), 4u);
  write_file(beside, R"({"resize": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1, "colors": "BGR"})");
  json custom = json_of("run " + model + " " + picture);
  EXPECT_EQ(custom["preprocess"]["colors"], "BGR");
  EXPECT_NE(custom["outputs"], imagenet["outputs"]);
  EXPECT_EQ(json_of("run " + model + " " + picture + " --colors RGB")["preprocess"]["colors"], "RGB");
  fs::remove(beside);
  ShellResult text = lathe_command("run " + model + " " + picture + " --top 2 --annotate " + in_scratch("drawn.png"));
  EXPECT_THAT(text.out, HasSubstr("0.485")) << "the default steps are printed";
  EXPECT_EQ(read_image(in_scratch("drawn.png")).width, 20);
}

TEST(RunCommand, NamesClassesAsTheFileBesideTheModelDoes) {
  std::string model = classifier(), picture = in_scratch("p.png"), beside = in_scratch("classifier.labels.txt"), other = in_scratch("other.txt");
  write_png(picture, {8, 8, std::vector<uint8_t>(192, 90)});
  fs::remove(beside);
  EXPECT_EQ(json_of("run " + model + " " + picture)["classes"][0][0]["label"], "");
  write_file(beside, "ant\nbee\ncat\ndog\n");
  EXPECT_THAT((std::vector<std::string>{"ant", "bee", "cat", "dog"}), ::testing::Contains(json_of("run " + model + " " + picture)["classes"][0][0]["label"].get<std::string>()));
  write_file(other, "elk\nelk\nelk\nelk\n");
  EXPECT_EQ(json_of("run " + model + " " + picture + " --labels " + other)["classes"][0][0]["label"], "elk");
  fs::remove(beside);
}

TEST(InspectCommand, TellsTypesShapesAndWhatCannotRun) {
  json j = json_of("inspect " + classifier());
  EXPECT_EQ(j["inputs"][0]["shape"], "[N, 3, 8, 8]");
  EXPECT_EQ(j["operators"]["Conv"], 1);
  EXPECT_EQ(j["parameters"], 6 * 27 + 6 + 24);
  EXPECT_EQ(j["macs"], 64 * 6 * 27 + 24);
  EXPECT_TRUE(j["runnable"].get<bool>());
  EXPECT_EQ(j["layers"].size(), j["nodes"].get<size_t>());
  ShellResult text = lathe_command("inspect --layers " + classifier());
  EXPECT_THAT(text.out, HasSubstr("1 Conv, 1 Flatten"));
  EXPECT_EQ(lathe_command("inspect /none.onnx").code, 1);
}

TEST(BenchCommand, GivesOneObjectWithWhatWasMeasured) {
  json j = json_of("bench " + classifier() + " --runs 3 --seconds 0 --batch 2 --threads 2");
  EXPECT_EQ(j["batch"], 2);
  EXPECT_EQ(j["threads"], 2);
  EXPECT_EQ(j["precision"], "fp32");
  for (const char* key : {"min", "median", "p95", "p99"}) EXPECT_GT(j["latency_ms"][key].get<double>(), 0) << key;
  for (const char* key : {"throughput_per_s", "start_ms", "arena_bytes", "rss_bytes", "macs"}) EXPECT_GT(j[key].get<double>(), 0) << key;
  EXPECT_FALSE(j.contains("layers"));
}

TEST(BenchCommand, WritesATraceAndTellsLayers) {
  // The limits are measured anew and kept here, whatever the user's own cache holds.
  ::setenv("XDG_CACHE_HOME", scratch_folder().c_str(), 1);
  std::string trace = in_scratch("trace.json");
  json j = json_of("bench " + classifier() + " --runs 3 --seconds 0 --layers --profile " + trace);
  ASSERT_GT(j["layers"].size(), 1u);
  double percent = 0;
  for (const json& layer : j["layers"]) percent += layer["percent"].get<double>();
  EXPECT_NEAR(percent, 100, 1e-6);
  EXPECT_GT(j["limit_gflops"].get<double>(), 0);
  ASSERT_EQ(j["layers"][0].count("kernel"), 1u);
  EXPECT_TRUE(std::any_of(j["layers"].begin(), j["layers"].end(), [](const json& l) { return l.contains("limit_percent"); }));
  std::vector<uint8_t> bytes = read_file(trace, 1 << 20);
  EXPECT_EQ(json::parse(bytes)["traceEvents"].size(), j["layers"].size());
}

TEST(PlanCommand, PrintsAndDraws) {
  std::string svg = in_scratch("plan.svg");
  json j = json_of("plan " + classifier() + " --precision bf16 --svg " + svg);
  EXPECT_GE(j["arena_bytes"], j["lower_bound"]);
  EXPECT_GT(j["steps"].size(), 1u);
  EXPECT_TRUE(fs::exists(svg));
  EXPECT_THAT(lathe_command("plan " + classifier()).out, HasSubstr("lower bound"));
}

TEST(Commands, PlanOnAScratchpadPrintsTrafficAndBound) {
  const std::string svg = in_scratch("scratchpad.svg"), html = in_scratch("scratchpad.html");
  json j = json_of("plan " + classifier() + " --scratchpad 8192 --method ilp --time-limit 5 --svg " + svg + " --html " + html);
  EXPECT_EQ(j["format"], "lathe scratchpad schedule 1");
  EXPECT_TRUE(j["optimal"]);
  EXPECT_EQ(j["load_bytes"], 0);
  EXPECT_GT(j["compulsory_bytes"], 3 * 64 * 4);
  EXPECT_THAT(shell("cat " + svg).out, HasSubstr("</svg>"));
  EXPECT_THAT(shell("cat " + html).out, HasSubstr("compulsory traffic"));
  const std::string device = std::string(LATHE_SOURCE) + "/devices/scratchpad-64k.json";
  EXPECT_THAT(lathe_command("plan " + classifier() + " --objective latency --method divide --device " + device).out, AllOf(HasSubstr("traffic: compulsory"), HasSubstr("gap"), HasSubstr(" s for operators")));
  EXPECT_THAT(lathe_command("plan " + classifier() + " --objective arena --device " + device).out, HasSubstr("other 0"));
  // What cannot be is said before anything is solved, and how it could.
  ShellResult small = lathe_command("plan " + classifier() + " --scratchpad 500");
  EXPECT_EQ(small.code, 3);
  EXPECT_THAT(small.err, AllOf(HasSubstr("at once for its operands"), HasSubstr("--tiles")));
  EXPECT_EQ(lathe_command("plan " + classifier() + " --scratchpad 4096 --tiles").code, 0);
  EXPECT_EQ(lathe_command("plan " + classifier() + " --objective traffic").code, 2);
  EXPECT_EQ(lathe_command("plan " + classifier() + " --scratchpad 8192 --objective latency").code, 2);
}

TEST(PackCommand, MakesAFileThatEveryCommandTakes) {
  std::string packed = in_scratch("m.lathe"), model = classifier();
  ShellResult r = lathe_command("pack " + model + " -o " + packed + " --batch 2");
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(json_of("bench " + packed + " --runs 3 --seconds 0")["batch"], 2);
  EXPECT_EQ(json_of("plan " + packed)["arena_bytes"], json_of("plan --batch 2 " + model)["arena_bytes"]);
  EXPECT_EQ(json_of("inspect " + packed)["packed"]["batch"], 2);
  write_npy(in_scratch("two.npy"), ramp({2, 3, 8, 8}, 0.1f));
  EXPECT_EQ(json_of("run " + packed + " " + in_scratch("two.npy"))["outputs"], json_of("run " + model + " " + in_scratch("two.npy"))["outputs"]);
  // Another batch than it was packed for: planned anew from the model inside, and said so.
  write_npy(in_scratch("five.npy"), ramp({5, 3, 8, 8}, 0.1f));
  ShellResult five = lathe_command("run " + packed + " " + in_scratch("five.npy"));
  EXPECT_EQ(five.code, 0) << five.err;
  EXPECT_THAT(five.err, HasSubstr("anew"));
  EXPECT_THAT(five.out, HasSubstr("[5, 4]"));
}

TEST(ConvertCommand, WritesAModelThatRunsAlike) {
  std::string out = in_scratch("converted.onnx");
  ASSERT_EQ(lathe_command("convert " + classifier() + " -o " + out).code, 0);
  json before = json_of("run " + classifier() + " --random 1"), after = json_of("run " + out + " --random 1");
  EXPECT_EQ(before["outputs"], after["outputs"]);
  EXPECT_EQ(lathe_command("convert " + classifier() + " -o /none/x.onnx").code, 1);
  for (const auto& entry : fs::directory_iterator(scratch_folder()))
    EXPECT_THAT(entry.path().filename().string(), testing::Not(HasSubstr("converted.onnx."))) << "a temporary file is left";
}

TEST(Commands, PatchWritesTilesThatAnswerTheSame) {
  const std::string model = in_scratch("pictures.onnx"), tiles = in_scratch("tiles.onnx"), moved = in_scratch("moved.onnx");
  ASSERT_EQ(lathe_command("models mobilenet_v2 --width 0.25 --input 3x64x64 --classes 5 -o " + model).code, 0);
  const ShellResult table = lathe_command("patch " + model);
  EXPECT_EQ(table.code, 0);
  EXPECT_THAT(table.out, HasSubstr("GlobalAveragePool) sees the whole map"));
  EXPECT_THAT(table.out, HasSubstr("\nchosen"));
  ASSERT_EQ(lathe_command("patch " + model + " --grid 3x2 --cache rows --most-overhead 10 -o " + tiles).code, 0);
  Tensor x = random_tensor(DType::kF32, {1, 3, 64, 64}, 1);
  const auto answer = [&](const std::string& path) { return CompiledModel::open(path, {}).run({x})[0].clone(); };
  const Tensor a = answer(model), b = answer(tiles);
  for (int64_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a.get(i), b.get(i), 1e-5 * std::max(1.0, std::abs(a.get(i))));
  const ShellResult printed = lathe_command("patch " + model + " --grid 2x2 --json");
  ASSERT_EQ(printed.code, 0) << printed.err;
  const json told = json::parse(printed.out);
  EXPECT_EQ(told.at("chosen").at("rows"), 2);
  EXPECT_LT(told.at("chosen").at("bytes").get<int64_t>(), told.at("layer_by_layer").at("bytes").get<int64_t>());
  EXPECT_EQ(lathe_command("patch " + model + " --grid 3x3 --redistribute 0.04 -o " + moved).code, 0);
  EXPECT_EQ(answer(moved).shape(), a.shape());
  // Errors: budgets that nothing keeps, grids and ends that there are not.
  EXPECT_EQ(lathe_command("patch " + model + " --memory 100").code, 3);
  EXPECT_THAT(lathe_command("patch " + model + " --memory 100").err, HasSubstr("bytes at least"));
  EXPECT_EQ(lathe_command("patch " + model + " --grid 3").code, 2);
  EXPECT_EQ(lathe_command("patch " + model + " --grid 3x3 --end nowhere").code, 2);
  EXPECT_EQ(lathe_command("patch " + model + " --end nowhere").code, 2);
  EXPECT_EQ(lathe_command("patch " + model + " --grid 5000x5000").code, 3);
  EXPECT_EQ(lathe_command("patch " + model + " --grid 3x3 -o /none/x.onnx").code, 1);
}

TEST(Commands, HelpHasExamplesAndUnknownOnesAreUsageErrors) {
  ShellResult top = lathe_command("--help");
  for (const char* name : {"run", "inspect", "bench", "plan", "pack", "convert", "patch", "verify", "device", "completion", "man"}) {
    EXPECT_THAT(top.out, HasSubstr(std::string("\n  ") + name));
    ShellResult help = lathe_command(std::string(name) + " --help");
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, HasSubstr(std::string("\n  ") + (std::string(name) == "completion" ? "source <(lathe " : "lathe ") + name)) << name;
  }
  EXPECT_EQ(lathe_command("").code, 2);
  EXPECT_EQ(lathe_command("frobnicate").code, 2);
  EXPECT_EQ(lathe_command("run").code, 2);
}

}  // namespace
}  // namespace lathe
