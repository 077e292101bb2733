// What is known of pictures from files of others: boxes of objects in COCO's JSON and in Pascal VOC's XML.
//
//   CocoFile coco = read_coco("instances_val2017.json");
//   VocPicture voc = read_voc("Annotations/000032.xml");
//
// Sources: cocodataset.org, "Data format", object detection; Everingham et al., The PASCAL Visual Object Classes Challenge 2012
// (VOC2012) Development Kit, section 7.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace lathe {

struct TrueBox {
  float x0, y0, x1, y1;  // pixels of the picture: left, top, right, bottom
  int64_t class_index;
  bool crowd = false;  // objects that count neither way: COCO's crowds, VOC's difficult ones
};

struct CocoFile {
  struct Picture {
    std::string file;
    std::vector<TrueBox> boxes;
  };
  std::vector<std::string> classes;  // the categories' names, in the order of their numbers
  std::vector<Picture> pictures;     // in the order of their numbers
};
// Boxes without area, of which the published files hold some, and those of pictures that are not listed are left out. Throws kInput
// beginning with `name` for what is no such file: wrong types, categories that are not listed, numbers that are not finite.
CocoFile parse_coco(std::span<const uint8_t> bytes, const std::string& name);
CocoFile read_coco(const std::string& path);

struct VocPicture {
  struct Object {
    std::string name;  // of its class
    float x0, y0, x1, y1;  // pixels from 0, exclusive at the right and the bottom; VOC counts from 1, inclusive
    bool difficult = false;
  };
  std::string file;  // <filename>, "" where there is none
  int64_t width = 0, height = 0;  // 0 where <size> is missing
  std::vector<Object> objects;
};
// Throws kInput for XML that is not well-formed, declares entities, is nested more than 32 deep, or is no annotation.
VocPicture parse_voc(std::span<const uint8_t> bytes, const std::string& name);
VocPicture read_voc(const std::string& path);

}  // namespace lathe
