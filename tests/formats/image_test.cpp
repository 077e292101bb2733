#include "formats/image.h"

#include <gtest/gtest.h>
#include <png.h>
#include <unistd.h>
#include <webp/encode.h>

#include <cstdlib>
#include <filesystem>

#include "core/file.h"

namespace lathe {
namespace {

std::string scratch(const std::string& name) {
  std::string folder = testing::TempDir() + "lathe_image_" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  return folder + "/" + name;
}

Image gradient(int width, int height) {
  Image image{width, height, std::vector<uint8_t>(size_t{3} * width * height)};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      image.pixel(x, y)[0] = static_cast<uint8_t>(x * 255 / width);
      image.pixel(x, y)[1] = static_cast<uint8_t>(y * 255 / height);
      image.pixel(x, y)[2] = 128;
    }
  return image;
}

std::vector<uint8_t> encoded(bool png) {
  std::string path = scratch(png ? "a.png" : "a.jpg");
  png ? write_png(path, gradient(45, 31)) : write_jpeg(path, gradient(45, 31), 95);
  return read_file(path, 1 << 20);
}

Image decode(const std::string& bytes) {
  return decode_image({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "test");
}

TEST(Images, PngRoundTripIsExact) {
  write_png(scratch("b.png"), gradient(17, 9));
  Image back = read_image(scratch("b.png"));
  EXPECT_EQ(back.width, 17);
  EXPECT_EQ(back.height, 9);
  EXPECT_EQ(back.rgb, gradient(17, 9).rgb);
}

TEST(Images, JpegRoundTripIsClose) {
  write_jpeg(scratch("b.jpg"), gradient(64, 48), 95);
  Image back = read_image(scratch("b.jpg")), image = gradient(64, 48);
  ASSERT_EQ(back.rgb.size(), image.rgb.size());
  for (size_t i = 0; i < back.rgb.size(); ++i) ASSERT_LE(std::abs(back.rgb[i] - image.rgb[i]), 24);
}

TEST(Images, KindIsToldByContent) {
  write_png(scratch("c.jpg"), gradient(8, 8));
  EXPECT_EQ(read_image(scratch("c.jpg")).width, 8);
}

class BadImages : public testing::TestWithParam<bool> {};

TEST_P(BadImages, RefusesEveryTruncation) {
  std::vector<uint8_t> bytes = encoded(GetParam());
  // A PNG holds all its pixels before the last chunk, a JPEG before its end marker of two bytes.
  size_t end = bytes.size() - (GetParam() ? 16 : 2);
  for (size_t size = 0; size < end; ++size)
    EXPECT_THROW(decode_image({bytes.data(), size}, "cut"), Error) << size;
}

TEST_P(BadImages, NeverCrashesOnAChangedByte) {
  std::vector<uint8_t> bytes = encoded(GetParam());
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::vector<uint8_t> changed = bytes;
    changed[at] ^= 0x55;
    try {
      decode_image(changed, "changed");
    } catch (const Error&) {
    }
  }
}

TEST_P(BadImages, ChecksTheSizeBeforeDecoding) {
  std::vector<uint8_t> bytes = encoded(GetParam());
  if (GetParam()) {
    for (size_t at : {16, 17, 20, 21}) bytes[at] = 1;  // IHDR: width and height
  } else {
    for (size_t at = 2; at + 9 < bytes.size(); at += 2 + bytes[at + 2] * 256 + bytes[at + 3]) {
      if (bytes[at + 1] != 0xc0) continue;  // SOF0: height and width
      for (size_t i = 5; i < 9; ++i) bytes[at + i] = 0xf0;
      break;
    }
  }
  EXPECT_THROW(decode_image(bytes, "huge"), Error);
}
INSTANTIATE_TEST_SUITE_P(Kinds, BadImages, testing::Bool());

std::vector<uint8_t> webp(bool lossless) {
  Image image = gradient(45, 31);
  uint8_t* data = nullptr;
  size_t size = lossless ? WebPEncodeLosslessRGB(image.rgb.data(), 45, 31, 45 * 3, &data)
                         : WebPEncodeRGB(image.rgb.data(), 45, 31, 45 * 3, 90, &data);
  std::vector<uint8_t> bytes(data, data + size);
  WebPFree(data);
  return bytes;
}

TEST(WebP, ReadsBothKindsAndRefusesTruncations) {
  EXPECT_EQ(decode_image(webp(true), "lossless").rgb, gradient(45, 31).rgb);
  EXPECT_EQ(decode_image(webp(false), "lossy").height, 31);
  for (bool lossless : {false, true}) {
    std::vector<uint8_t> bytes = webp(lossless);
    for (size_t size = 0; size + 8 < bytes.size(); ++size)
      EXPECT_THROW(decode_image({bytes.data(), size}, "cut"), Error) << size << " of " << bytes.size();
  }
}

TEST(Images, TransparencyLiesOverWhite) {
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  header.width = 2;
  header.height = 1;
  header.format = PNG_FORMAT_RGBA;
  const uint8_t rgba[8] = {10, 20, 30, 255, 10, 20, 30, 0};
  std::vector<uint8_t> bytes(4096);
  png_alloc_size_t size = bytes.size();
  ASSERT_TRUE(png_image_write_to_memory(&header, bytes.data(), &size, 0, rgba, 0, nullptr));
  EXPECT_EQ(decode_image({bytes.data(), size}, "alpha").rgb,
            (std::vector<uint8_t>{10, 20, 30, 255, 255, 255}));
}

TEST(BadImagesByHand, AreRefused) {
  using namespace std::string_literals;
  std::vector<std::string> bad = {
      ""s, "\xff"s, "\xff\xd8"s, "\xff\xd8\xff"s, "\xff\xd8\xff\xd9"s, "\xff\xd8\xff\xe0\0\x10JFIF"s,
      "\xff\xd8\xff\xc0\0\x0b\x08\0\0\0\0\1\1\x11\0"s, "\xff\xd8\xff\xff\xff\xff\xff\xff"s,
      "\xff\xd8\xff\xc4\0\2\xff\xd9"s, "\xff\xd8\xff\xda\0\x08\1\1\0\0\x3f\0"s,
      "\x89PNG\r\n\x1a\n"s, "\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"s,
      "\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\0\0\0\0\0\x08\2\0\0\0\0\0\0\0"s,
      "\x89PNG\r\n\x1a\n\0\0\0\0IEND\xae\x42\x60\x82"s, "\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR"s,
      "\x89PNG\r\n\x1a"s, "RIFF\0\0\0\0WEBP"s, "RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff"s,
      "RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xff\xff\xff\xff"s,
      "RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff"s, "RIFF\0\0\0\0WAVEfmt "s,
      "GIF89a\1\0\1\0"s, "BM\0\0\0\0"s, "II*\0\x08\0\0\0"s, "<svg/>"s, "P6\n1 1\n255\nabc"s,
      std::string(1000, '\0'), std::string(1000, '\xff')};
  for (size_t i = 0; i < bad.size(); ++i) EXPECT_THROW(decode(bad[i]), Error) << i;
  EXPECT_THROW(read_image(scratch("none.png")), Error);
  EXPECT_THROW(read_image(scratch("")), Error);
  EXPECT_THROW(write_jpeg(scratch("d.jpg"), gradient(2, 2), 0), Error);
  EXPECT_THROW(write_png(scratch("d.png"), Image{}), Error);
}

TEST(Images, ReadsRealPictures) {
  std::string folder = std::string(LATHE_ASSETS) + "/images/scenes";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no pictures at " << folder;
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    std::string extension = entry.path().extension();
    if (extension != ".jpg" && extension != ".png" && extension != ".webp") continue;
    EXPECT_GT(read_image(entry.path()).width, 0);
    ++count;
  }
  EXPECT_GT(count, 0);
}

}  // namespace
}  // namespace lathe
