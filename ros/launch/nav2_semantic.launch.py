"""The node and a costmap with Nav2's semantic layer, without the rest of Nav2.

Needs nav2_costmap_2d, nav2_lifecycle_manager and semantic_segmentation_layer, and a robot that
publishes tf from odom to its camera, an image and a registered cloud of points.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description() -> LaunchDescription:
    """Return the node, the costmap, and the manager that starts the costmap."""
    share = Path(get_package_share_directory("samclip_ros"))
    use_sim_time = LaunchConfiguration("use_sim_time")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "image", default_value="/camera/image_raw", description="The camera's topic."
            ),
            DeclareLaunchArgument(
                "costmap_params",
                default_value=str(share / "config" / "nav2_costmap.yaml"),
                description="The costmap's parameters.",
            ),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="Take the time of a simulation."
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(share / "launch" / "node.launch.py")),
                launch_arguments={
                    "params_file": str(share / "config" / "nav2_samclip.yaml"),
                    "image": LaunchConfiguration("image"),
                    "use_sim_time": use_sim_time,
                }.items(),
            ),
            Node(
                package="nav2_costmap_2d",
                executable="nav2_costmap_2d",
                output="screen",
                parameters=[
                    LaunchConfiguration("costmap_params"),
                    {"use_sim_time": use_sim_time},
                ],
            ),
            Node(
                package="nav2_lifecycle_manager",
                executable="lifecycle_manager",
                name="lifecycle_manager_costmap",
                output="screen",
                parameters=[
                    {
                        "autostart": True,
                        "node_names": ["costmap/costmap"],
                        "bond_timeout": 0.0,
                        "use_sim_time": use_sim_time,
                    }
                ],
            ),
        ]
    )
