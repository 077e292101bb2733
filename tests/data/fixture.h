// A folder for each test, pictures to put into it, and a set whose samples are made by a function.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <random>

#include "../folder_test.h"
#include "core/file.h"
#include "data/dataset.h"
#include "formats/image.h"

namespace lathe {

class DataTest : public FolderTest {
 protected:
  std::string in_folder(const std::string& name) const {
    std::filesystem::create_directories(folder_ / std::filesystem::path(name).parent_path());
    return path(name);
  }
  void write(const std::string& name, std::string_view contents) const { write_file(in_folder(name), contents); }
  // Noise that follows from `seed`.
  void picture(const std::string& name, unsigned seed, int width = 12, int height = 10) const {
    std::mt19937 random(seed);
    Image image{width, height, std::vector<uint8_t>(static_cast<size_t>(3 * width * height))};
    for (uint8_t& v : image.rgb) v = static_cast<uint8_t>(random());
    if (name.ends_with(".png")) write_png(in_folder(name), image);
    else write_jpeg(in_folder(name), image);
  }
  static std::string fault_of(const std::string& spec, ErrorKind kind = ErrorKind::kInput) {
    try {
      open_dataset(spec);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), kind) << e.what();
      return e.what();
    }
    return "";
  }
};

class FunctionSet : public TrainingSet {
 public:
  FunctionSet(size_t size, std::function<Sample(size_t)> make, std::vector<std::string> classes = {"a", "b", "c"},
              TrainingTruth truth = TrainingTruth::kClass)
      : size_(size), make_(std::move(make)) {
    classes_ = std::move(classes);
    truth_ = truth;
  }
  size_t size() const override { return size_; }
  Sample sample(size_t i) const override { return make_(i); }
  int64_t label(size_t i) const override { return make_(i).label; }
  std::string name(size_t i) const override { return "sample " + std::to_string(i); }
  bool in_memory() const override { return false; }

 private:
  size_t size_;
  std::function<Sample(size_t)> make_;
};

inline Tensor noise(Shape shape, unsigned seed, DType type = DType::kU8) {
  std::mt19937 random(seed);
  Tensor t(type, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, random() % 256);
  return t;
}

inline bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), a.bytes()) == 0);
}

}  // namespace lathe
