// The bytes of a frame: the header's length (uint32, little-endian), the header as JSON, then the images as PNG.

export function unpackFrame(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const info = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let offset = 4 + length;
  const images = info.images.map((image) => {
    const file = new Blob([new Uint8Array(buffer, offset, image.bytes)], { type: "image/png" });
    offset += image.bytes;
    return { ...image, file };
  });
  return { info, images };
}
