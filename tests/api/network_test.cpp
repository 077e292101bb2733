// The C++ API through the shared library, with nothing but its public headers.
#include "lathe/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "onnx_model.h"

namespace {

using lathe::ErrorKind;
using lathe::Network;
using lathe::Runner;
using lathe::TensorView;
using testing::ElementsAre;
using testing::HasSubstr;

Network small(const std::string& activation = "Relu") {
  std::string bytes = onnx_model(activation);
  return Network::from_onnx(bytes.data(), bytes.size());
}

std::string file_of(const std::string& name, const std::string& contents) {
  std::string path = testing::TempDir() + "lathe_api_" + std::to_string(getpid()) + "_" + name;
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

template <class Body>
std::string error_of(ErrorKind kind, Body&& body) {
  try {
    body();
  } catch (const lathe::Error& e) {  // thrown inside the library, caught outside
    EXPECT_EQ(e.kind(), kind) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(Network, SaysWhatItHolds) {
  Network network = Network::open(file_of("small.onnx", onnx_model()));
  ASSERT_EQ(network.inputs().size(), 1u);
  EXPECT_EQ(network.inputs()[0].name, "x");
  EXPECT_EQ(network.inputs()[0].dtype, lathe::DType::kF32);
  EXPECT_THAT(network.inputs()[0].shape, ElementsAre(-1, 3));
  EXPECT_THAT(network.inputs()[0].symbols, ElementsAre("N", ""));
  EXPECT_EQ(network.outputs()[0].name, "scores");
  const lathe::NetworkSummary& s = network.summary();
  EXPECT_EQ(s.nodes, 2);
  EXPECT_EQ(s.parameters, 6);
  EXPECT_EQ(s.macs, 6);
  EXPECT_EQ(s.activation_bytes, 16);
  EXPECT_EQ(s.opsets.at(""), 17);
  EXPECT_TRUE(s.runnable());
  EXPECT_EQ(lathe::name_of(lathe::DType::kBF16), "bf16");
}

TEST(Network, OpensWhatItCannotRunAndSaysWhy) {
  Network network = small("Frobnicate");
  ASSERT_EQ(network.summary().problems.size(), 1u);
  EXPECT_THAT(network.summary().problems[0], HasSubstr("Frobnicate"));
  EXPECT_THAT(error_of(ErrorKind::kUnsupported, [&] { network.compile(); }), HasSubstr("node 'last'"));
}

TEST(Network, OpensSequencesAndStringsToSayWhatIsWrong) {
  onnx::ModelProto model;
  model.ParseFromString(onnx_model());
  auto* sequence = model.mutable_graph()->add_input();
  sequence->set_name("s");
  sequence->mutable_type()->mutable_sequence_type()->mutable_elem_type()->mutable_tensor_type()->set_elem_type(1);
  auto* words = model.mutable_graph()->add_initializer();
  words->set_name("words");
  words->set_data_type(onnx::TensorProto::STRING);
  words->add_string_data("a");
  auto* constant = model.mutable_graph()->add_node();
  constant->set_name("text");
  constant->set_op_type("Constant");
  constant->add_output("t");
  auto* value = constant->add_attribute();
  value->set_name("value_string");
  value->set_type(onnx::AttributeProto::STRING);
  value->set_s("b");
  for (auto [op, from] : {std::pair{"SequenceLength", "s"}, {"StringNormalizer", "words"}, {"Identity", "t"}}) {
    auto* node = model.mutable_graph()->add_node();
    node->set_name(op);
    node->set_op_type(op);
    node->add_input(from);
    node->add_output(std::string("made_") + from);
  }
  std::string bytes = model.SerializeAsString();
  Network network = Network::from_onnx(bytes.data(), bytes.size());
  EXPECT_THAT(network.summary().problems,
              testing::IsSupersetOf({HasSubstr("'s' is not a tensor"), HasSubstr("'words' has element type"), HasSubstr("node 'text'"),
                                     HasSubstr("SequenceLength"), HasSubstr("StringNormalizer")}));
  error_of(ErrorKind::kUnsupported, [&] { network.compile(); });
}

// Operators that fusion makes rely on what fusion checked.
TEST(Network, DoesNotRunOperatorsOfItsOwnFromAFile) {
  onnx::ModelProto model;
  model.ParseFromString(onnx_model("Conv"));
  model.mutable_graph()->mutable_node(1)->set_domain("ai.lathe");
  model.mutable_graph()->mutable_node(1)->add_input("p");
  std::string bytes = model.SerializeAsString();
  Network network = Network::from_onnx(bytes.data(), bytes.size());
  EXPECT_THAT(network.summary().problems, ElementsAre("node 'last': operator ai.lathe::Conv is not supported"));
  error_of(ErrorKind::kUnsupported, [&] { network.compile(); });
}

TEST(Network, ErrorsHaveKinds) {
  EXPECT_THAT(error_of(ErrorKind::kInput, [] { Network::open("/none.onnx"); }), HasSubstr("/none.onnx"));
  error_of(ErrorKind::kInput, [] { Network::from_onnx("nonsense", 8); });
  error_of(ErrorKind::kUsage, [] { Network::from_onnx(nullptr, 8); });
  error_of(ErrorKind::kUsage, [] { small().compile({.threads = 0}); });
  error_of(ErrorKind::kUsage, [] { small().compile({.input_shapes = {{"q", {1}}}}); });
  error_of(ErrorKind::kInput, [] { small().compile({.input_shapes = {{"x", {2, 4}}}}); });
  error_of(ErrorKind::kInput, [] { small().compile({.device_file = "/none.json"}); });
}

TEST(Runner, RunsNamedTensorsOfChangingShapes) {
  Runner runner = small().compile();
  for (int64_t rows : {1, 4, 1, 2}) {
    std::vector<float> x(rows * 3, 1.0f);
    x[0] = 3;
    auto outputs = runner.run({{"x", TensorView::of(x.data(), {rows, 3})}});
    const TensorView& y = outputs.at("scores");
    EXPECT_THAT(y.shape, ElementsAre(rows, 2));
    EXPECT_EQ(y.as<double>(), nullptr);
    EXPECT_FLOAT_EQ(y.as<float>()[0], 2);
    if (rows > 1) {
      EXPECT_FLOAT_EQ(y.as<float>()[3], 0.5f);
    }
  }
}

TEST(Runner, ReadsAndWritesTheCallersMemory) {
  Runner runner = small().compile({.threads = 2, .batch = 2});
  const std::vector<float> none;
  std::vector<float> x(6, 1.0f), y(4, -1.0f);
  runner.set_input("x", TensorView::of(x.data(), {2, 3}));
  runner.set_output("scores", TensorView::of(y.data(), {2, 2}));
  runner.run();
  EXPECT_EQ(runner.output("scores").data, y.data());
  EXPECT_THAT(y, ElementsAre(0, 0.5f, 0, 0.5f));
  x[0] = 4;  // in place: the next run sees it
  runner.run();
  EXPECT_THAT(y, ElementsAre(3, 0, 0, 0.5f));
  runner.set_output("scores", {});
  y.assign(4, -1.0f);
  runner.run();
  EXPECT_THAT(y, ElementsAre(-1, -1, -1, -1));
  EXPECT_FLOAT_EQ(runner.output("scores").as<float>()[0], 3);
}

TEST(Runner, RefusesMisuse) {
  Runner runner = small().compile();
  std::vector<float> x(6, 1.0f);
  error_of(ErrorKind::kUsage, [&] { runner.output("scores"); });
  error_of(ErrorKind::kUsage, [&] { runner.run(); });
  error_of(ErrorKind::kUsage, [&] { runner.profile(); });
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { runner.set_input("y", TensorView::of(x.data(), {2, 3})); }), HasSubstr("'x'"));
  error_of(ErrorKind::kUsage, [&] { runner.set_input("x", {lathe::DType::kF32, {2, -3}, x.data()}); });
  error_of(ErrorKind::kUsage, [&] { runner.set_input("x", {lathe::DType::kF32, {2, 3}, nullptr}); });
  error_of(ErrorKind::kUsage, [&] { runner.set_input("x", {lathe::DType::kString, {2, 3}, x.data()}); });
  error_of(ErrorKind::kUsage, [&] { runner.set_input("x", {lathe::DType::kF32, {1, 3}, reinterpret_cast<char*>(x.data()) + 1}); });
  runner.set_input("x", TensorView::of(x.data(), {2, 3}));
  runner.set_output("scores", TensorView::of(x.data() + 2, {2, 2}));
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { runner.run(); }), HasSubstr("overlaps"));
  error_of(ErrorKind::kUsage, [&] { runner.output("scores"); });  // no stale result after a failed run
}

TEST(Runner, ProfilesSteps) {
  Runner runner = small().compile({.batch = 1});
  std::vector<float> x(3, 1.0f);
  runner.set_input("x", TensorView::of(x.data(), {1, 3}));
  runner.run();
  for (const lathe::StepProfile& s : runner.profile()) EXPECT_EQ(s.milliseconds, 0);
  runner.set_profiling(true);
  for (int i = 0; i < 20; ++i) runner.run();
  int64_t macs = 0;
  for (const lathe::StepProfile& s : runner.profile()) {
    EXPECT_GT(s.milliseconds, 0) << s.name;
    EXPECT_FALSE(s.kernel.empty());
    macs += s.macs;
  }
  EXPECT_EQ(macs, 6);
  EXPECT_GT(runner.memory().arena_bytes, 0);
  EXPECT_GE(runner.memory().constant_bytes, 24);
  EXPECT_THAT(runner.plan_text(), HasSubstr("arena"));
}

TEST(Runner, CompilesForADevice) {
  std::string path = file_of("device.json", R"({"name": "tiny", "source": "test", "compute": [{"name": "core", "cores": 1, "threads": 1}],
    "memory": [], "limits": {"memory_bytes": 8}})");
  EXPECT_THAT(error_of(ErrorKind::kBudget, [&] { small().compile({.batch = 1, .device_file = path}); }), HasSubstr("tiny has 8 bytes"));
}

TEST(Runner, EachThreadItsOwn) {
  Network network = small();
  std::vector<std::thread> threads;
  std::vector<float> results(4);
  for (size_t t = 0; t < results.size(); ++t)
    threads.emplace_back([&, t] {
      Runner runner = network.compile();
      std::vector<float> x(3, static_cast<float>(t));
      for (int i = 0; i < 50; ++i)
        results[t] = runner.run({{"x", TensorView::of(x.data(), {1, 3})}}).at("scores").as<float>()[1];
    });
  for (std::thread& t : threads) t.join();
  EXPECT_THAT(results, ElementsAre(0, 0.5f, 1, 1.5f));
}

}  // namespace
