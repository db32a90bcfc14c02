"""Plots: functions that take ``ax=None`` and return the axis, as in scanpy."""
