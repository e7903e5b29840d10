package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

const (
	connectWithin = 10 * time.Second
	frameHeader   = 9       // bytes before every frame's payload
	messageHeader = 5       // bytes before every gRPC message: compressed or not, length
	ownWindow     = 1 << 30 // bytes that the server may send before it is told more
	firstWindow   = 65_535  // what either side may send before it is told anything
	mostInFrame   = 16_384
)

var errLost = errors.New("connection lost")

// connection is one HTTP/2 connection with the gRPC calls under way on it. Nothing in it waits:
// bytes are read when there are some, and written as far as the socket takes them.
type connection struct {
	file    *os.File
	fd      int
	framer  *http2.Framer // from reader, to out
	reader  bytes.Reader  // whole frames of in
	in, out bytes.Buffer
	encoder *hpack.Encoder
	decoder *hpack.Decoder
	block   bytes.Buffer // a call's encoded headers
	headers []hpack.HeaderField
	streams map[uint32]*call
	asking  []*call // those that the server has no room for yet
	next    uint32  // the next stream's number
	limit   uint32  // streams that the server allows at a time
	window  int64   // bytes that the server still takes
	least   int     // bytes that it takes of one message
	read    int     // bytes of answers that it was not yet told of
	current uint32  // stream whose headers are read
	closing bool    // the server takes no more calls here
	buffer  []byte
	greeted bool // its settings have come
	ended   func(*call, codes.Code)
}

// dial connects and sends the preface. Calls that end are handed to ended.
func dial(o options, ended func(*call, codes.Code)) (*connection, error) {
	ctx, cancel := context.WithTimeout(context.Background(), connectWithin)
	defer cancel()
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "tcp", o.address)
	if err != nil {
		return nil, err
	}
	defer socket.Close() // the file is a duplicate
	file, err := socket.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	c := &connection{
		file: file, fd: int(file.Fd()), streams: map[uint32]*call{}, next: 1, ended: ended,
		limit: 1 << 30, window: firstWindow, least: firstWindow, buffer: make([]byte, 1<<18),
	}
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return nil, err
	}
	c.framer = http2.NewFramer(&c.out, &c.reader)
	c.framer.SetReuseFrames()
	c.encoder = hpack.NewEncoder(&c.block)
	c.decoder = hpack.NewDecoder(4096, c.header)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", o.method}, {":authority", o.address},
		{"te", "trailers"}, {"content-type", "application/grpc"}, {"user-agent", "corerec-loadgen"},
		{"grpc-timeout", grpcTimeout(o.timeout)},
	} {
		c.headers = append(c.headers, hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	c.out.WriteString(http2.ClientPreface)
	c.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: ownWindow})
	c.framer.WriteWindowUpdate(0, ownWindow-firstWindow)
	return c, c.flush()
}

// grpcTimeout writes a deadline as gRPC does: at most eight digits and a unit.
func grpcTimeout(timeout time.Duration) string {
	if micros := timeout.Microseconds(); micros < 1e8 {
		return fmt.Sprintf("%du", micros)
	}
	return fmt.Sprintf("%dm", timeout.Milliseconds())
}

// ask sends a call, or keeps it until the server has room.
func (c *connection) ask(one *call) error {
	one.on = c
	if len(c.asking) > 0 || !c.room(one) {
		c.asking = append(c.asking, one)
		return nil
	}
	return c.write(one)
}

func (c *connection) room(one *call) bool {
	return len(c.streams) < int(c.limit) && c.window >= int64(messageHeader+len(one.message))
}

func (c *connection) write(one *call) error {
	size := messageHeader + len(one.message)
	if size > min(c.least, mostInFrame) {
		return fmt.Errorf("message %d is of %d bytes: at most %d can be sent", one.place,
			len(one.message), min(c.least, mostInFrame)-messageHeader)
	}
	c.block.Reset()
	for _, field := range c.headers {
		c.encoder.WriteField(field)
	}
	one.stream = c.next
	c.next += 2
	c.streams[one.stream] = one
	c.window -= int64(size)
	c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: one.stream, BlockFragment: c.block.Bytes(), EndHeaders: true,
	})
	data := make([]byte, messageHeader, size)
	binary.BigEndian.PutUint32(data[1:], uint32(len(one.message)))
	return c.framer.WriteData(one.stream, true, append(data, one.message...))
}

// give tells the server that nobody waits for a call any more.
func (c *connection) give(one *call) {
	if _, under := c.streams[one.stream]; under {
		delete(c.streams, one.stream)
		c.framer.WriteRSTStream(one.stream, http2.ErrCodeCancel)
	}
}

// flush writes what is ready, as far as the socket takes it.
func (c *connection) flush() error {
	for c.out.Len() > 0 {
		n, err := unix.Write(c.fd, c.out.Bytes())
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", errLost, err)
		default:
			c.out.Next(n)
		}
	}
	return nil
}

// receive reads what has come and deals with every whole frame of it.
func (c *connection) receive() error {
	n, err := unix.Read(c.fd, c.buffer)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", errLost, err)
	case n == 0:
		return fmt.Errorf("%w: the server closed it", errLost)
	}
	c.in.Write(c.buffer[:n])
	for {
		ready := c.in.Bytes()
		if len(ready) < frameHeader {
			return nil
		}
		size := frameHeader + int(ready[0])<<16 + int(ready[1])<<8 + int(ready[2])
		if len(ready) < size {
			return nil
		}
		c.reader.Reset(c.in.Next(size))
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		if err := c.take(frame); err != nil {
			return err
		}
	}
}

// take deals with one frame.
func (c *connection) take(frame http2.Frame) error {
	stream := frame.Header().StreamID
	switch f := frame.(type) {
	case *http2.DataFrame:
		if one := c.streams[stream]; one != nil {
			one.answer = append(one.answer, f.Data()...)
		}
		c.read += int(f.Length)
		if c.read > ownWindow/2 {
			c.framer.WriteWindowUpdate(0, uint32(c.read))
			c.read = 0
		}
		if f.StreamEnded() {
			c.end(stream, codes.Internal) // without a status
		}
	case *http2.HeadersFrame:
		c.current = stream
		if _, err := c.decoder.Write(f.HeaderBlockFragment()); err != nil {
			return err
		}
		if one := c.streams[stream]; one != nil {
			one.last = f.StreamEnded()
		}
		return c.headersEnd(stream, f.HeadersEnded())
	case *http2.ContinuationFrame:
		if _, err := c.decoder.Write(f.HeaderBlockFragment()); err != nil {
			return err
		}
		return c.headersEnd(stream, f.HeadersEnded())
	case *http2.RSTStreamFrame:
		if one := c.streams[stream]; one != nil && !c.closing && f.ErrCode == http2.ErrCodeRefusedStream {
			// No handler has seen it: the server still counted streams that it had answered.
			delete(c.streams, stream)
			c.asking = append(c.asking, one)
		}
		c.end(stream, codeOf(f.ErrCode))
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		c.greeted = true
		if err := f.ForeachSetting(c.setting); err != nil {
			return err
		}
		if err := c.framer.WriteSettingsAck(); err != nil {
			return err
		}
	case *http2.WindowUpdateFrame:
		if stream == 0 {
			c.window += int64(f.Increment)
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.framer.WritePing(true, f.Data)
		}
	case *http2.GoAwayFrame:
		c.closing = true
		for number := range c.streams {
			if number > f.LastStreamID {
				c.end(number, codes.Unavailable)
			}
		}
		for _, one := range c.asking {
			c.finish(one, codes.Unavailable)
		}
		c.asking = nil
	}
	return c.more()
}

// more sends the calls that there is room for now.
func (c *connection) more() error {
	for len(c.asking) > 0 && c.room(c.asking[0]) {
		one := c.asking[0]
		c.asking = c.asking[1:]
		if one.over {
			continue
		}
		if err := c.write(one); err != nil {
			return err
		}
	}
	return nil
}

func (c *connection) setting(s http2.Setting) error {
	switch s.ID {
	case http2.SettingMaxConcurrentStreams:
		c.limit = s.Val
	case http2.SettingInitialWindowSize:
		c.least = int(s.Val)
	case http2.SettingHeaderTableSize:
		c.encoder.SetMaxDynamicTableSizeLimit(s.Val)
	}
	return nil
}

// header takes one header of the current stream.
func (c *connection) header(field hpack.HeaderField) {
	one := c.streams[c.current]
	if one == nil || field.Name != "grpc-status" {
		return
	}
	number, err := strconv.ParseUint(field.Value, 10, 32)
	if err != nil {
		number = uint64(codes.Unknown)
	}
	one.code, one.told = codes.Code(number), true
}

func (c *connection) headersEnd(stream uint32, ended bool) error {
	if !ended {
		return nil
	}
	if err := c.decoder.Close(); err != nil {
		return err
	}
	if one := c.streams[stream]; one != nil && one.last {
		c.end(stream, codes.Unknown) // not from a gRPC server
	}
	return c.more()
}

// end finishes a stream's call; without is its code where the server told none.
func (c *connection) end(stream uint32, without codes.Code) {
	one := c.streams[stream]
	if one == nil {
		return
	}
	delete(c.streams, stream)
	if one.told {
		without = one.code
	}
	c.finish(one, without)
}

func (c *connection) finish(one *call, code codes.Code) {
	if !one.over {
		c.ended(one, code)
	}
}

// lose ends all calls that the connection has, and closes it.
func (c *connection) lose() {
	for number := range c.streams {
		c.end(number, codes.Unavailable)
	}
	for _, one := range c.asking {
		c.finish(one, codes.Unavailable)
	}
	c.asking, c.closing = nil, true
	c.file.Close()
}

func codeOf(reset http2.ErrCode) codes.Code {
	switch reset {
	case http2.ErrCodeCancel:
		return codes.Canceled
	case http2.ErrCodeRefusedStream:
		return codes.Unavailable
	case http2.ErrCodeEnhanceYourCalm:
		return codes.ResourceExhausted
	}
	return codes.Internal
}
