"""The process: devices, compiled programs, memory, signals, the console."""
