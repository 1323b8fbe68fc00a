function render({ model, el }) {
  const image = document.createElement("img");
  let address = "";
  const draw = () => {
    URL.revokeObjectURL(address);
    address = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    image.src = address;
    image.alt = model.get("alt");
    image.hidden = model.get("png").byteLength === 0;
  };
  image.style.cssText = "width: 100%; max-width: 860px; background: white; display: block";
  image.style.cursor = model.get("clickable") ? "crosshair" : "default";
  image.addEventListener("click", event => {
    const box = image.getBoundingClientRect();
    model.send({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
  });
  model.on("change:png", draw);
  draw();
  el.append(image);
  return () => { model.off("change:png", draw); URL.revokeObjectURL(address); };
}
export default { render };
