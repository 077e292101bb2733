// A small ONNX model in memory: scores [N, 2] = relu(x [N, 3] · w), and an operator of the caller's choice.
#pragma once

#include <onnx/onnx_pb.h>

#include <string>

inline std::string onnx_model(const std::string& activation = "Relu") {
  onnx::ModelProto model;
  model.set_ir_version(8);
  auto* opset = model.add_opset_import();
  opset->set_domain("");
  opset->set_version(17);
  auto* graph = model.mutable_graph();
  graph->set_name("test");
  auto describe = [](onnx::ValueInfoProto* value, const char* name, int columns) {
    value->set_name(name);
    auto* type = value->mutable_type()->mutable_tensor_type();
    type->set_elem_type(onnx::TensorProto::FLOAT);
    type->mutable_shape()->add_dim()->set_dim_param("N");
    type->mutable_shape()->add_dim()->set_dim_value(columns);
  };
  describe(graph->add_input(), "x", 3);
  describe(graph->add_output(), "scores", 2);
  auto* w = graph->add_initializer();
  w->set_name("w");
  w->set_data_type(onnx::TensorProto::FLOAT);
  w->add_dims(3);
  w->add_dims(2);
  for (float value : {1.0f, -1.0f, 2.0f, 0.5f, -3.0f, 1.0f}) w->add_float_data(value);
  auto* product = graph->add_node();
  product->set_name("product");
  product->set_op_type("MatMul");
  product->add_input("x");
  product->add_input("w");
  product->add_output("p");
  auto* last = graph->add_node();
  last->set_name("last");
  last->set_op_type(activation);
  last->add_input("p");
  last->add_output("scores");
  return model.SerializeAsString();
}
