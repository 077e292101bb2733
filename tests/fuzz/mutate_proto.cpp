#include "mutate_proto.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

using google::protobuf::Reflection;

namespace {

constexpr size_t kMostMessages = 4096;
constexpr int kDeepest = 40;

}  // namespace

void ProtoMutator::mutate(Message& root) {
  for (size_t i = 1 + below(4); i > 0; --i) {
    messages_.clear();  // a change may have freed what was found before
    strings_.clear();
    collect(root, 0);
    Message& message = *messages_[below(messages_.size())];
    int count = message.GetDescriptor()->field_count();
    if (count > 0) change(message, message.GetDescriptor()->field(static_cast<int>(below(static_cast<size_t>(count)))));
  }
}

void ProtoMutator::collect(Message& message, int depth) {
  if (depth > kDeepest || messages_.size() >= kMostMessages) return;
  messages_.push_back(&message);
  const Reflection& reflection = *message.GetReflection();
  std::vector<const Field*> fields;
  reflection.ListFields(message, &fields);
  for (const Field* field : fields) {
    int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->cpp_type() == Field::CPPTYPE_MESSAGE)
        collect(field->is_repeated() ? *reflection.MutableRepeatedMessage(&message, field, i) : *reflection.MutableMessage(&message, field), depth + 1);
      else if (field->type() == Field::TYPE_STRING && strings_.size() < kMostMessages)
        strings_.push_back(field->is_repeated() ? reflection.GetRepeatedString(message, field, i) : reflection.GetString(message, field));
    }
  }
}

void ProtoMutator::change(Message& message, const Field* field) {
  const Reflection& reflection = *message.GetReflection();
  if (field->is_repeated()) {
    int count = reflection.FieldSize(message, field);
    if (count > 0 && below(4) == 0) {
      reflection.SwapElements(&message, field, static_cast<int>(below(static_cast<size_t>(count))), count - 1);
      if (below(2)) reflection.RemoveLast(&message, field);
      return;
    }
  } else if (reflection.HasField(message, field) && below(6) == 0) {
    reflection.ClearField(&message, field);
    return;
  }
  field->cpp_type() == Field::CPPTYPE_MESSAGE ? change_message(message, field) : change_scalar(message, field);
}

google::protobuf::Message* ProtoMutator::add_or_get(Message& message, const Field* field) {
  const Reflection& reflection = *message.GetReflection();
  return field->is_repeated() ? reflection.AddMessage(&message, field) : reflection.MutableMessage(&message, field);
}

// An empty message or, mostly, a copy of one of its kind from elsewhere.
void ProtoMutator::change_message(Message& message, const Field* field) {
  std::vector<const Message*> like;
  for (const Message* m : messages_)
    if (m->GetDescriptor() == field->message_type()) like.push_back(m);
  std::unique_ptr<Message> copy;  // made first: its original may hold `message`, or be held by it
  if (!like.empty() && below(8) != 0) {
    const Message& from = *like[below(like.size())];
    copy.reset(from.New());
    copy->CopyFrom(from);
  }
  Message* to = add_or_get(message, field);
  if (copy) to->CopyFrom(*copy);
}

void ProtoMutator::change_scalar(Message& message, const Field* field) {
  int index = -1;
  if (field->is_repeated()) {
    const Reflection& reflection = *message.GetReflection();
    int count = reflection.FieldSize(message, field);
    index = static_cast<int>(below(static_cast<size_t>(count) + 1));
    if (index == count) {
      index = -2;  // at the end
    }
  }
  set_scalar(message, field, index);
}

// index −1: not repeated; −2: a new element.
void ProtoMutator::set_scalar(Message& message, const Field* field, int index) {
  const Reflection& r = *message.GetReflection();
  auto put = [&](auto value, auto set, auto set_at, auto add) {
    if (index == -1) (r.*set)(&message, field, value);
    else if (index == -2) (r.*add)(&message, field, value);
    else (r.*set_at)(&message, field, index, value);
  };
  switch (field->cpp_type()) {
    case Field::CPPTYPE_INT32:
      return put(static_cast<int32_t>(number(index == -1 ? r.GetInt32(message, field) : 0)), &Reflection::SetInt32,
                 &Reflection::SetRepeatedInt32, &Reflection::AddInt32);
    case Field::CPPTYPE_INT64: {
      int64_t now = index == -1 ? r.GetInt64(message, field) : index >= 0 ? r.GetRepeatedInt64(message, field, index) : 0;
      return put(number(now), &Reflection::SetInt64, &Reflection::SetRepeatedInt64, &Reflection::AddInt64);
    }
    case Field::CPPTYPE_UINT64:
      return put(static_cast<uint64_t>(number(0)), &Reflection::SetUInt64, &Reflection::SetRepeatedUInt64, &Reflection::AddUInt64);
    case Field::CPPTYPE_ENUM:
      return put(static_cast<int>(below(static_cast<size_t>(field->enum_type()->value_count()))), &Reflection::SetEnumValue,
                 &Reflection::SetRepeatedEnumValue, &Reflection::AddEnumValue);
    case Field::CPPTYPE_FLOAT: {
      static constexpr float kOdd[] = {0, 1, -1, 0.5f, 1e-30f, 3e38f, -3e38f, INFINITY, NAN, 2, 1e10f};
      return put(kOdd[below(std::size(kOdd))], &Reflection::SetFloat, &Reflection::SetRepeatedFloat, &Reflection::AddFloat);
    }
    case Field::CPPTYPE_DOUBLE: {
      static constexpr double kOdd[] = {0, 1, -1, 1e300, -1e300, INFINITY, NAN, 3};
      return put(kOdd[below(std::size(kOdd))], &Reflection::SetDouble, &Reflection::SetRepeatedDouble, &Reflection::AddDouble);
    }
    case Field::CPPTYPE_STRING: {
      std::string now = index == -1 ? r.GetString(message, field) : index >= 0 ? r.GetRepeatedString(message, field, index) : "";
      std::string value = text(now, field->type() == Field::TYPE_BYTES);
      if (index == -1) r.SetString(&message, field, value);
      else if (index == -2) r.AddString(&message, field, value);
      else r.SetRepeatedString(&message, field, index, value);
      return;
    }
    default: return;  // the schema has no others
  }
}

int64_t ProtoMutator::number(int64_t now) {
  static constexpr int64_t kOdd[] = {std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min(), INT32_MAX, INT32_MIN,
                                     int64_t{1} << 40, 1 << 20, 65536, -1, 0};
  switch (below(4)) {
    case 0: return kOdd[below(std::size(kOdd))];
    case 1: return static_cast<int64_t>(static_cast<uint64_t>(now) + below(5) - 2);  // may wrap
    case 2: return static_cast<int64_t>(below(27));  // element types, sizes, axes
    default: return static_cast<int64_t>(below(9)) - 4;
  }
}

std::string ProtoMutator::text(const std::string& now, bool bytes) {
  if (!bytes && below(8) != 0) {
    const auto& pool = words_.empty() || (!strings_.empty() && below(2)) ? strings_ : words_;
    return pool.empty() ? "" : pool[below(pool.size())];
  }
  std::string value = now;
  value.resize(now.size() + 16);
  value.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(value.data()), now.size(), value.size()));
  return value;
}
