"""How a view is made of an image, once its draw is known: by OpenCV, on a device, as published."""
