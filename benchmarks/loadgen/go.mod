module corerec.example/loadgen

go 1.26.0

require (
	golang.org/x/net v0.60.0
	golang.org/x/sys v0.48.0
	google.golang.org/grpc v1.85.0
)

require golang.org/x/text v0.42.0 // indirect
