//go:build !linux

package priority

func promptly() error { return nil }

func beNice() {}
