// Package rpc is DCE/RPC over named pipes (C706, MS-RPCE): connection-oriented
// PDUs, NDR in its 32-bit little-endian form, and the interfaces we speak,
// srvsvc (MS-SRVS) and wkssvc (MS-WKST), from both sides. It does no I/O: a
// Server takes messages and gives messages, a Client works over a Transport.
//
// No authentication of its own: the pipe's SMB session is who calls.
package rpc
