#include "formats/annotations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lathe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::span<const uint8_t> bytes_of(const std::string& text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

template <class Parse>
std::string fault_of(Parse parse, const std::string& text) {
  try {
    parse(bytes_of(text), "test.file");
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
    EXPECT_THAT(e.what(), HasSubstr("test.file"));
    return e.what();
  }
  return "";
}

constexpr const char* kVoc = R"(<?xml version="1.0" encoding="UTF-8"?>
<annotation>
  <folder>VOC2012</folder><filename> a.jpg </filename>
  <size><width>500</width><height>375</height><depth>3</depth></size>
  <object><name>dog</name><difficult>0</difficult>
    <bndbox><xmin>1</xmin><ymin>20.5</ymin><xmax>100</xmax><ymax>200</ymax></bndbox></object>
  <object><name>person</name><difficult>1</difficult>
    <bndbox><xmax>40</xmax><xmin>30</xmin><ymin>3</ymin><ymax>4</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>7</xmin><ymin>7</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object>
</annotation>)";

TEST(Voc, ReadsObjects) {
  VocPicture p = parse_voc(bytes_of(kVoc), "x");
  EXPECT_EQ(p.file, "a.jpg");
  EXPECT_EQ(p.width, 500);
  EXPECT_EQ(p.height, 375);
  ASSERT_EQ(p.objects.size(), 2u);
  EXPECT_EQ(p.objects[0].name, "dog");
  EXPECT_EQ(p.objects[0].x0, 0);      // from 1 to 0
  EXPECT_EQ(p.objects[0].y0, 19.5f);
  EXPECT_EQ(p.objects[0].x1, 100);    // inclusive to exclusive
  EXPECT_FALSE(p.objects[0].difficult);
  EXPECT_EQ(p.objects[1].name, "person");  // not the name of its part
  EXPECT_EQ(p.objects[1].x0, 29);
  EXPECT_TRUE(p.objects[1].difficult);
  EXPECT_TRUE(parse_voc(bytes_of("<annotation/>"), "x").objects.empty());
}

TEST(Voc, RefusesWhatIsBroken) {
  const std::string good = kVoc;
  for (size_t size = 0; size < good.size(); size += 7) EXPECT_NE(fault_of(parse_voc, good.substr(0, size)), "") << size;
  EXPECT_THAT(fault_of(parse_voc, "<html></html>"), HasSubstr("no <annotation>"));
  auto object = [](const std::string& inside) { return "<annotation><object>" + inside + "</object></annotation>"; };
  EXPECT_THAT(fault_of(parse_voc, object("")), HasSubstr("no <name>"));
  EXPECT_THAT(fault_of(parse_voc, object("<name>a</name><bndbox><xmin>1</xmin></bndbox>")), HasSubstr("no whole <bndbox>"));
  EXPECT_THAT(fault_of(parse_voc, object("<bndbox><xmin>one</xmin></bndbox>")), HasSubstr("expected a number"));
  EXPECT_THAT(fault_of(parse_voc, object("<bndbox><xmin>nan</xmin></bndbox>")), HasSubstr("expected a number"));
  EXPECT_THAT(fault_of(parse_voc, object("<name>a</name><bndbox><xmin>5</xmin><ymin>1</ymin><xmax>4</xmax><ymax>9</ymax></bndbox>")), HasSubstr("no area"));
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += "<a>";
  EXPECT_THAT(fault_of(parse_voc, deep), HasSubstr("deep"));
  EXPECT_THAT(fault_of(parse_voc, "<annotation><filename>" + std::string(5000, 'a') + "</filename></annotation>"), HasSubstr("longer"));
}

TEST(Voc, RefusesEntities) {
  EXPECT_THAT(fault_of(parse_voc, R"(<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>)"), HasSubstr("entity"));
  EXPECT_THAT(fault_of(parse_voc, R"(<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>)"), HasSubstr("entity"));
}

TEST(Coco, ReadsBoxesByPicture) {
  CocoFile coco = parse_coco(bytes_of(R"({"images": [{"id": 9, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
    "annotations": [{"image_id": 3, "category_id": 90, "bbox": [10, 20, 5, 6]},
                    {"image_id": 3, "category_id": 1, "bbox": [0, 0, 0, 6]},
                    {"image_id": 9, "category_id": 1, "bbox": [1.5, 2, 3, 4], "iscrowd": 1},
                    {"image_id": 77, "category_id": 1, "bbox": [1, 2, 3, 4]}]})"), "x");
  EXPECT_THAT(coco.classes, ElementsAre("person", "toothbrush"));
  ASSERT_EQ(coco.pictures.size(), 2u);
  EXPECT_EQ(coco.pictures[0].file, "a.jpg");
  ASSERT_EQ(coco.pictures[0].boxes.size(), 1u);  // the one without area is left out
  EXPECT_EQ(coco.pictures[0].boxes[0].class_index, 1);
  EXPECT_EQ(coco.pictures[0].boxes[0].x1, 15);
  EXPECT_TRUE(coco.pictures[1].boxes.at(0).crowd);
}

TEST(Coco, RefusesWhatIsBroken) {
  EXPECT_THAT(fault_of(parse_coco, "[]"), HasSubstr("no COCO file"));
  EXPECT_THAT(fault_of(parse_coco, "{"), HasSubstr("JSON"));
  EXPECT_THAT(fault_of(parse_coco, R"({"images": [{"id": 1, "file_name": "a"}], "categories": [], "annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 1, 1, 1]}]})"),
              HasSubstr("not listed"));
  EXPECT_THAT(fault_of(parse_coco, R"({"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 1]}]})"),
              HasSubstr("no COCO file"));
  EXPECT_THAT(fault_of(parse_coco, R"({"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1e39, 1, 1, 1]}]})"),
              HasSubstr("too large"));
}

}  // namespace
}  // namespace lathe
