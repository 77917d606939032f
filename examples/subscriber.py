"""Rejects every part that is not normal, and everything while the daemon is silent. Needs pyzmq and msgpack."""

import sys

import msgpack
import zmq

socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5570")
socket.subscribe("verdict/")
socket.subscribe("status/")
while True:
    if not socket.poll(3000):  # every station publishes its status once a second
        print("REJECT: no daemon", flush=True)
        continue
    topic, header = socket.recv_multipart()
    message = msgpack.unpackb(header)
    if topic.startswith(b"verdict/"):
        action = "pass" if message["decision"] == "normal" else "REJECT"
        print(action, message["station"], message["frame_id"], message["part_id"], message["decision"], flush=True)
