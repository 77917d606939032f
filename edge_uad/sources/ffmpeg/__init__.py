"""Video by FFmpeg (PyAV): containers and streams to packets, packets to whole pictures or a reason why not.

FFmpeg conceals damage: it fills lost parts with those of the picture before. Everything here serves to notice
that, because such a picture must never be judged.
"""
