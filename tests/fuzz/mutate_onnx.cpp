// The mutator of the targets whose inputs are ONNX models: three of four changes go by the fields of the message.
#include <onnx/onnx_pb.h>

#include "graph/op.h"
#include "mutate_proto.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

// Names that mean something in a model.
const std::vector<std::string>& words() {
  static const std::vector<std::string> list = [] {
    std::vector<std::string> all = {"", "ai.onnx", "ai.lathe", "location", "offset", "length", "weights.bin", "../weights.bin", "8192",
                                    "NOTSET", "SAME_UPPER", "linear", "constant", "reflect", "ij,jk->ik", "Upsample", "Constant"};
    for (const lathe::Op* op : lathe::all_ops()) {
      all.push_back(op->name);
      for (const lathe::AttributeSpec& attribute : op->attributes) all.push_back(attribute.name);
    }
    return all;
  }();
  return list;
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  onnx::ModelProto model;
  if (seed % 4 == 0 || !model.ParseFromArray(data, static_cast<int>(size))) return LLVMFuzzerMutate(data, size, max_size);
  ProtoMutator(seed, words()).mutate(model);
  size_t bytes = model.ByteSizeLong();
  if (bytes > max_size || !model.SerializeToArray(data, static_cast<int>(bytes))) return LLVMFuzzerMutate(data, size, max_size);
  return bytes;
}
