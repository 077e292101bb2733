// Mutates a protobuf message by its fields, so that the result still parses: bytes changed at random mostly break the
// lengths that frame a message, and then only protobuf's own parser is tested.
//
//   ProtoMutator mutator(seed, words);   // words: names that mean something (operators, attributes)
//   mutator.mutate(message);
#pragma once

#include <google/protobuf/message.h>

#include <random>
#include <string>
#include <vector>

class ProtoMutator {
 public:
  ProtoMutator(unsigned seed, const std::vector<std::string>& words) : random_(seed), words_(words) {}
  // One to four changes: fields are set, cleared, added, repeated, swapped, or taken from another place of the message.
  void mutate(google::protobuf::Message& root);

 private:
  using Message = google::protobuf::Message;
  using Field = google::protobuf::FieldDescriptor;

  size_t below(size_t n) { return n ? random_() % n : 0; }
  void collect(Message& message, int depth);
  void change(Message& message, const Field* field);
  void change_message(Message& message, const Field* field);
  void change_scalar(Message& message, const Field* field);
  void set_scalar(Message& message, const Field* field, int index);
  Message* add_or_get(Message& message, const Field* field);
  int64_t number(int64_t now);
  std::string text(const std::string& now, bool bytes);

  std::mt19937 random_;
  const std::vector<std::string>& words_;
  std::vector<Message*> messages_;    // all of the tree
  std::vector<std::string> strings_;  // texts of the tree: names that may be used again
};
