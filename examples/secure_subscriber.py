"""Subscribes to a daemon that requires keys. Arguments: address, the daemon's public key file, your secret key file."""

import sys

import msgpack
import zmq
import zmq.auth

address, server_key, client_key = sys.argv[1:]
socket = zmq.Context().socket(zmq.SUB)
socket.curve_serverkey, _ = zmq.auth.load_certificate(server_key)
socket.curve_publickey, socket.curve_secretkey = zmq.auth.load_certificate(client_key)
socket.connect(address)
socket.subscribe("verdict/")
socket.subscribe("status/")
while True:
    topic, header = socket.recv_multipart()
    message = msgpack.unpackb(header)
    names = "frame_id part_id decision" if topic.startswith(b"verdict/") else "state message"
    print(message["station"], *(message[name] for name in names.split()), flush=True)
