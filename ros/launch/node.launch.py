"""The node with a file of parameters: `ros2 launch samclip_ros node.launch.py`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode


def generate_launch_description() -> LaunchDescription:
    """Return the node, which starts by itself where its parameter autostart is true."""
    share = Path(get_package_share_directory("samclip_ros"))
    image = LaunchConfiguration("image")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=str(share / "config" / "node.yaml"),
                description="The node's parameters.",
            ),
            DeclareLaunchArgument(
                "image",
                default_value="/camera/image_raw",
                description="The camera's topic, without /compressed.",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="The namespace of node and answers."
            ),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="Take the time of a simulation."
            ),
            LifecycleNode(
                package="samclip_ros",
                executable="samclip_node",
                name="samclip",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    LaunchConfiguration("params_file"),
                    {"use_sim_time": LaunchConfiguration("use_sim_time")},
                ],
                remappings=[("image", image), ("image/compressed", [image, "/compressed"])],
            ),
        ]
    )
