"""File trees of machines: the files in which each describes itself, at their places.

Composed of what such boards' files are reported to hold; none was copied from a real device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from samclip.engines.machine.kernel_files import MachineFiles

DPKG = "/var/lib/dpkg/status"
PYTHON_MODULE = "python3-libnvinfer"


def dpkg(**packages: str) -> str:
    """Write dpkg's list of installed packages, names with _ for -, others around them."""
    entries = {"bash": "5.1-6ubuntu1.1", **packages, "zlib1g": "1:1.2.11.dfsg-2ubuntu9.2"}
    return "\n".join(
        f"Package: {name.replace('_', '-')}\n"
        "Status: install ok installed\n"
        "Priority: standard\n"
        f"Version: {version}\n"
        "Description: a package\n A line that goes on: Version: 9.9\n"
        for name, version in entries.items()
    )


ORIN_NANO = {  # Jetson Orin Nano 8 GB developer kit, JetPack 6.2, as it comes: 15 W, a desktop
    "/proc/device-tree/model": (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"
    ),
    "/etc/nv_tegra_release": (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n"
        "TARGET_USERSPACE_LIB_DIR=nvidia\n"
    ),
    DPKG: dpkg(
        nvidia_l4t_core="36.4.3-20250107174145",
        nvidia_jetpack="6.2+b77",
        libnvinfer10="10.3.0.30-1+cuda12.5",
        python3_libnvinfer="10.3.0.30-1+cuda12.5",
    ),
    "/var/lib/nvpmodel/status": "pmode:0000 fmode:quiet\n",
    "/etc/nvpmodel.conf": (
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n"
        "< PARAM TYPE=CLOCK NAME=EMC >\nMAX_FREQ /sys/kernel/nvpmodel_clk_cap/emc\n\n"
        "# the modes\n"
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\nCPU_ONLINE CORE_1 1\n"
        "CPU_A78_0 MAX_FREQ 1497600\nGPU MIN_FREQ 0\nGPU MAX_FREQ 612000000\n"
        "EMC MAX_FREQ 2133000000\n\n"
        "< POWER_MODEL ID=1 NAME=25W >\nCPU_ONLINE CORE_0 1\nCPU_ONLINE CORE_1 1\n"
        "CPU_A78_0 MAX_FREQ 1344000\nGPU MAX_FREQ 918000000\nEMC MAX_FREQ 3199000000\n\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\nCPU_ONLINE CORE_0 1\nCPU_ONLINE CORE_1 1\n"
        "CPU_A78_0 MAX_FREQ -1\nGPU MAX_FREQ -1\nEMC MAX_FREQ 0\n\n"
        "< POWER_MODEL ID=3 NAME=7W >\nCPU_ONLINE CORE_0 1\nCPU_ONLINE CORE_1 0\n"
        "CPU_A78_0 MAX_FREQ 960000\nGPU MAX_FREQ 408000000\nEMC MAX_FREQ 2133000000\n\n"
        "< PM_CONFIG DEFAULT=0 >\n"
    ),
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1497600\n",
    "/sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "/sys/class/devfreq/17000000.gpu/max_freq": "612000000\n",
    "/sys/class/devfreq/15340000.vic/min_freq": "115200000\n",  # another engine, of no interest
    "/sys/class/devfreq/15340000.vic/max_freq": "435200000\n",
    "/proc/meminfo": (
        "MemTotal:        7802096 kB\nMemFree:          251236 kB\n"
        "MemAvailable:    4883008 kB\nSwapTotal:       3901040 kB\nSwapFree:        3901040 kB\n"
    ),
    "/proc/swaps": (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        + "".join(f"/dev/zram{i}   partition\t650172\t\t0\t\t5\n" for i in range(6))
    ),
    "/dev/nvmap": "",
}
ORIN_NANO_LINKS = {"/etc/systemd/system/default.target": "/lib/systemd/system/graphical.target"}

# The state of an Orin Nano at work: warm, its GPU slowed down once, two over-current events.
ORIN_NANO_STATE = {
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": "63625\n",
    "/sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "/sys/class/thermal/thermal_zone1/temp": "-4500\n",
    "/sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",  # off: its file cannot be read
    "/sys/class/thermal/thermal_zone3/type": "soc0-thermal\n",
    "/sys/class/thermal/thermal_zone3/temp": "-256000\n",
    "/sys/class/thermal/thermal_zone10/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone10/temp": "61000\n",
    "/sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "/sys/class/thermal/cooling_device0/cur_state": "2\n",
    "/sys/class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
    "/sys/class/thermal/cooling_device1/cur_state": "0\n",
    "/sys/class/thermal/cooling_device2/type": "devfreq-17000000.gpu\n",
    "/sys/class/thermal/cooling_device2/cur_state": "1\n",
    "/sys/class/hwmon/hwmon0/name": "pwmfan\n",
    "/sys/class/hwmon/hwmon1/name": "ina3221\n",
    "/sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "/sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "/sys/class/hwmon/hwmon1/curr1_input": "1000\n",
    "/sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "/sys/class/hwmon/hwmon1/in2_input": "4992\n",
    "/sys/class/hwmon/hwmon1/curr2_input": "250\n",
    "/sys/class/hwmon/hwmon1/in3_label": "VDD_SOC\n",  # its channel is switched off
    "/sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "/sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "/sys/class/hwmon/hwmon3/oc2_event_cnt": "0\n",
    "/sys/class/hwmon/hwmon3/oc3_event_cnt": "2\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1497600\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1113600\n",
    "/sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "/sys/class/devfreq/17000000.gpu/max_freq": "612000000\n",
    "/sys/class/devfreq/17000000.gpu/cur_freq": "408000000\n",
    "/proc/meminfo": "MemTotal: 7802096 kB\nMemAvailable: 4883008 kB\n",
}

THOR = {  # Jetson AGX Thor developer kit, JetPack 7.0, at full speed with pinned clocks
    "/proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "/etc/nv_tegra_release": (
        "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, "
        "DATE: Thu Sep 25 22:47:11 UTC 2025\n"
    ),
    DPKG: dpkg(
        nvidia_l4t_core="38.2.2-20250925153837",
        libnvinfer10="10.13.3.9-1+cuda13.0",
        python3_libnvinfer="10.13.3.9-1+cuda13.0",
    ),
    "/var/lib/nvpmodel/status": "pmode:0000\n",
    "/etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n"
        "< POWER_MODEL ID=1 NAME=120W >\nCPU_ONLINE CORE_0 1\n"
        "< POWER_MODEL ID=2 NAME=90W >\n< POWER_MODEL ID=3 NAME=70W >\n< PM_CONFIG DEFAULT=1 >\n"
    ),
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "2601000\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2601000\n",
    "/sys/class/devfreq/gpu-gpc-0/min_freq": "1575000000\n",
    "/sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
    "/sys/class/devfreq/gpu-nvd-0/min_freq": "1692000000\n",
    "/sys/class/devfreq/gpu-nvd-0/max_freq": "1692000000\n",
    "/proc/meminfo": (
        "MemTotal:       128790100 kB\nMemAvailable:   120000000 kB\nSwapTotal:             0 kB\n"
    ),
    "/proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "/dev/nvmap": "",
}
THOR_LINKS = {"/etc/systemd/system/default.target": "/lib/systemd/system/multi-user.target"}

X86 = {  # a PC with TensorRT of NVIDIA's Debian packages
    DPKG: dpkg(libnvinfer10="10.9.0.34-1+cuda12.8"),
    "/proc/meminfo": "MemTotal:       65843548 kB\nMemAvailable:   60000000 kB\n",
    "/proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "800000\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "5000000\n",
}


def write_tree(
    folder: Path, files: Mapping[str, str], links: Mapping[str, str] | None = None
) -> MachineFiles:
    """Write a tree below `folder`; links may dangle, as they do there."""
    for name, content in files.items():
        place = folder / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode())
    for name, target in (links or {}).items():
        place = folder / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    return MachineFiles(folder)
