from pathlib import Path

from setuptools import setup

NAME = "samclip_ros"


def files_of(folder, ending):
    return sorted(str(path) for path in Path(folder).glob(f"*{ending}"))


setup(
    name=NAME,
    version="0.1.0",
    description="A ROS 2 lifecycle node around samclip.",
    license="Apache-2.0",
    maintainer="The samclip maintainers",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml", "README.md"]),
        (f"share/{NAME}/launch", files_of("launch", ".launch.py")),
        (f"share/{NAME}/config", files_of("config", ".yaml")),
    ],
    python_requires=">=3.10",
    install_requires=["setuptools", "samclip"],
    zip_safe=True,
    entry_points={"console_scripts": [f"samclip_node = {NAME}.node:main"]},
)
