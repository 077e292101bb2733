// Operators of old operator sets whose form today is another: what they compute is what their own version says.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>
#include <unistd.h>

#include <filesystem>

#include "formats/onnx.h"
#include "planner/plan.h"
#include "runtime/session.h"

namespace lathe {
namespace {

using testing::ElementsAre;

std::string model(const std::string& text) {
  onnx::ModelProto proto;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &proto));
  return proto.SerializeAsString();
}

std::vector<float> values(const Tensor& t) { return {t.data<float>(), t.data<float>() + t.size()}; }

std::string tensor_value(const std::string& name, int type, const std::vector<int>& dims) {
  std::string text = "name: '" + name + "' type { tensor_type { elem_type: " + std::to_string(type) + " shape {";
  for (int n : dims) text += " dim { dim_value: " + std::to_string(n) + " }";
  return text + " } } }";
}

// Two sequences of up to three steps of two numbers: the running sum, what it is after each step, and, to see captures, the
// step times a value from outside.
std::string batched_scan(const std::string& lengths, const std::string& attributes = "") {
  return "ir_version: 3 opset_import { version: 8 } graph { name: 'g' "
         "node { op_type: 'Scan' name: 'scan' input: '" + lengths + "' input: 'start' input: 'x' output: 'final' output: 'sums' output: 'scaled' "
         "  attribute { name: 'num_scan_inputs' type: INT i: 1 } " + attributes +
         "  attribute { name: 'body' type: GRAPH g { name: 'body' "
         "    node { op_type: 'Add' input: 'sum' input: 'next' output: 'sum_out' } "
         "    node { op_type: 'Identity' input: 'sum_out' output: 'sum_seen' } "
         "    node { op_type: 'Mul' input: 'next' input: 'factor' output: 'scaled_step' } "
         "    input { " + tensor_value("sum", 1, {2}) + " } input { " + tensor_value("next", 1, {2}) + " } "
         "    output { " + tensor_value("sum_out", 1, {2}) + " } output { " + tensor_value("sum_seen", 1, {2}) + " } "
         "    output { " + tensor_value("scaled_step", 1, {2}) + " } } } } "
         "input { " + tensor_value("start", 1, {2, 2}) + " } input { " + tensor_value("x", 1, {2, 3, 2}) + " } "
         "input { " + tensor_value("factor", 1, {1}) + " } input { " + tensor_value("lengths", 7, {2}) + " } "
         "output { " + tensor_value("final", 1, {2, 2}) + " } output { " + tensor_value("sums", 1, {2, 3, 2}) + " } "
         "output { " + tensor_value("scaled", 1, {2, 3, 2}) + " } }";
}

std::vector<Tensor> run(Graph graph) {
  std::vector<float> steps(12);
  for (size_t i = 0; i < steps.size(); ++i) steps[i] = static_cast<float>(i + 1);
  std::vector<Tensor> inputs = {Tensor::of_f32({2, 2}, {0, 0, 100, 100}), Tensor::of_f32({2, 3, 2}, steps), Tensor::of_f32({1}, {10}),
                                Tensor::of_i64({3, 1})};
  return Session(make_plan(std::move(graph))).run(inputs);
}

TEST(ScanOfOpset8, GoesOverEachSequenceOfTheBatch) {
  std::vector<Tensor> y = run(import_onnx_bytes(model(batched_scan(""))).graph);
  EXPECT_EQ(y[0].shape(), (Shape{2, 2}));
  EXPECT_THAT(values(y[0]), ElementsAre(9, 12, 127, 130));
  EXPECT_EQ(y[1].shape(), (Shape{2, 3, 2}));
  EXPECT_THAT(values(y[1]), ElementsAre(1, 2, 4, 6, 9, 12, 107, 108, 116, 118, 127, 130));
  EXPECT_THAT(values(y[2]), ElementsAre(10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120));
}

TEST(ScanOfOpset8, EndsWhereTheSequenceEnds) {
  std::vector<Tensor> y = run(import_onnx_bytes(model(batched_scan("lengths"))).graph);
  EXPECT_THAT(values(y[0]), ElementsAre(9, 12, 107, 108));
  EXPECT_EQ(y[1].shape(), (Shape{2, 3, 2}));
  EXPECT_THAT(values(y[1]), ElementsAre(1, 2, 4, 6, 9, 12, 107, 108, 0, 0, 0, 0));
}

TEST(ScanOfOpset8, BackwardsFromTheLastStep) {
  std::vector<Tensor> y = run(import_onnx_bytes(model(batched_scan("", "attribute { name: 'directions' type: INTS ints: 1 }"))).graph);
  EXPECT_THAT(values(y[0]), ElementsAre(9, 12, 127, 130));
  EXPECT_THAT(values(y[1]), ElementsAre(5, 6, 8, 10, 9, 12, 111, 112, 120, 122, 127, 130));
}

TEST(ScanOfOpset8, IsWrittenInTodaysForm) {
  std::string path = (std::filesystem::temp_directory_path() / ("lathe_scan8_" + std::to_string(::getpid()) + ".onnx")).string();
  export_onnx(import_onnx_bytes(model(batched_scan("lengths"))).graph, path);
  std::vector<Tensor> y = run(import_onnx(path).graph);
  std::filesystem::remove(path);
  EXPECT_THAT(values(y[1]), ElementsAre(1, 2, 4, 6, 9, 12, 107, 108, 0, 0, 0, 0));
}

TEST(ScanOfOpset8, BrokenOnesAreRefused) {
  std::string whole = batched_scan("");
  auto with = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    text.replace(text.find(from), from.size(), to);
    return model(text);
  };
  EXPECT_THROW(import_onnx_bytes(with("type: INT i: 1", "type: INT i: 3")), Error);
  EXPECT_THROW(import_onnx_bytes(with("type: INT i: 1", "type: INT i: -1")), Error);
  EXPECT_THROW(import_onnx_bytes(with("input: 'start'", "input: ''")), Error);
  EXPECT_THROW(import_onnx_bytes(with("output: 'scaled' ", "output: 'scaled' output: 'more' ")), Error);
}

}  // namespace
}  // namespace lathe
