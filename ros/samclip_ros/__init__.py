"""A ROS 2 lifecycle node around samclip: named pixels, masks and tracks of a camera."""
