package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v3"
)

// scalar decodes y, which n stands for, into v, whose kind is a scalar one.
func (d *decoder) scalar(n, y *yaml.Node, v reflect.Value, l *limits, p *nodePath) content {
	s := text{s: y.Value, tag: y.Tag, shown: !l.secret}
	switch {
	case y.Kind != yaml.ScalarNode || isLocal(y.Tag) && y.Tag != envTag || isNull(y):
		d.problem(n, p, "expected %s, found %s", d.want(v.Type()), found(y, l.secret))
		return content{}
	case y.Tag == envTag:
		if y.Value == "" || strings.ContainsAny(y.Value, "= \t\r\n") {
			d.problem(n, p, "expected the name of a variable after !Env, found %s", quote(y.Value))
			return content{}
		}
		value, ok := d.o.Env(y.Value)
		if !ok {
			d.problem(n, p, "the environment variable %s is not set", quote(y.Value))
			return content{}
		}
		s = text{s: value, tag: envTag, env: y.Value}
	}
	k := d.kind(v.Type())
	canonical, err := set(v, k, s)
	if err == nil {
		err = l.check(v, k, s)
	}
	switch {
	case errors.Is(err, errType) && s.env != "":
		d.problem(n, p, "expected %s in the environment variable %s", d.want(v.Type()), quote(s.env))
	case errors.Is(err, errType):
		what := found(y, l.secret)
		if k == kindString {
			what += " (put it into quotes)"
		}
		d.problem(n, p, "expected %s, found %s", d.want(v.Type()), what)
	case err != nil:
		d.problem(n, p, "%v", err)
	}
	return content{sum: hash("scalar", []byte(canonical))}
}

// text is a scalar before it has a type.
type text struct {
	s, tag string // tag is envTag for a variable's text
	env    string // the variable
	shown  bool   // may be repeated in messages
}

// show is how messages call the value.
func (s text) show() string {
	switch {
	case s.env != "":
		return "the value of the environment variable " + s.env
	case !s.shown:
		return "the value"
	case s.tag == "!!int" || s.tag == "!!float":
		return clip(s.s)
	default:
		return quote(s.s)
	}
}

// errType says that a text is of another type than wanted.
var errType = errors.New("wrong type")

// set parses s into v. It returns what is the same for the same value.
func set(v reflect.Value, k kind, s text) (canonical string, err error) {
	number := s.tag == "!!int" || s.tag == "!!float" || s.tag == envTag
	if number && k != kindString && k != kindText && leadingZero.MatchString(s.s) {
		return "", fmt.Errorf("%s begins with 0, which means octal in some versions of YAML only (expected no 0, or 0o)", s.show())
	}
	switch k {
	case kindString:
		if s.tag != "!!str" && s.tag != "!!timestamp" && s.tag != envTag {
			return "", errType
		}
		v.SetString(s.s)
		return "s" + s.s, nil
	case kindText:
		// Into a new one: an unmarshaler may expect that.
		x := reflect.New(v.Type())
		if err := x.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s.s)); err != nil {
			if s.env != "" || !s.shown {
				return "", fmt.Errorf("%s is not valid here", s.show()) // the error may repeat it
			}
			return "", fmt.Errorf("%s is not valid here: %w", s.show(), err)
		}
		v.Set(x.Elem())
		return "t" + s.s, nil
	case kindBool:
		b, ok := boolean(s.s)
		if !ok || s.tag != "!!bool" && s.tag != "!!str" && s.tag != envTag {
			return "", errType
		}
		v.SetBool(b)
		return "b" + strconv.FormatBool(b), nil
	case kindDuration:
		dur, err := duration(s, number)
		v.SetInt(int64(dur))
		return "d" + strconv.FormatInt(int64(dur), 10), err
	case kindFloat:
		if !number {
			return "", errType
		}
		f, err := parseFloat(s.s)
		if err != nil {
			return "", errType
		}
		if math.IsNaN(f) || v.OverflowFloat(f) && !math.IsInf(f, 0) {
			return "", fmt.Errorf("%s is no number that fits here", s.show())
		}
		v.SetFloat(f)
		return "f" + strconv.FormatFloat(f, 'g', -1, 64), nil
	case kindInt:
		if !number {
			return "", errType
		}
		i, err := parseInt(s.s, v.Type().Bits())
		if err != nil {
			lo := int64(-1) << (v.Type().Bits() - 1)
			return "", wholeError(s, err, strconv.FormatInt(lo, 10), strconv.FormatInt(-(lo+1), 10))
		}
		v.SetInt(i)
		return "i" + strconv.FormatInt(i, 10), nil
	case kindUint:
		if !number {
			return "", errType
		}
		u, err := parseUint(s.s, v.Type().Bits())
		if err != nil {
			return "", wholeError(s, err, "0", strconv.FormatUint(math.MaxUint64>>(64-v.Type().Bits()), 10))
		}
		v.SetUint(u)
		return "i" + strconv.FormatUint(u, 10), nil
	}
	panic(fmt.Sprintf("config: a %v is no scalar", v.Type()))
}

var leadingZero = regexp.MustCompile(`^[-+]?0[0-9_]`)

func wholeError(s text, err error, lo, hi string) error {
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%s is out of range (expected %s..%s)", s.show(), lo, hi)
	}
	return errType
}

// boolean knows YAML 1.1's words, too: the field says that it wants a boolean.
func boolean(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "true", "yes", "on":
		return true, true
	case "false", "no", "off":
		return false, true
	}
	return false, false
}

func duration(s text, number bool) (time.Duration, error) {
	if s.tag == "!!str" || s.tag == envTag {
		if d, err := time.ParseDuration(s.s); err == nil {
			return d, nil
		}
	}
	if !number {
		return 0, errType
	}
	seconds, err := parseFloat(s.s)
	if err != nil {
		return 0, errType
	}
	// Not ≤: float64(math.MaxInt64) is one more than fits.
	if ns := math.Round(seconds * 1e9); ns > math.MinInt64 && ns < math.MaxInt64 {
		return time.Duration(ns), nil
	}
	return 0, fmt.Errorf("%s is out of range (expected a number of seconds)", s.show())
}

// plainNumber takes out what YAML 1.1 allows between digits.
func plainNumber(s string) string { return strings.ReplaceAll(s, "_", "") }

// parseInt parses what YAML 1.1 or 1.2 calls an integer, or a float that is one.
// Errors are strconv's.
func parseInt(s string, bits int) (int64, error) {
	s = plainNumber(s)
	i, err := strconv.ParseInt(s, 0, bits)
	if errors.Is(err, strconv.ErrSyntax) {
		f, ferr := parseFloat(s)
		if ferr != nil || f != math.Trunc(f) {
			return 0, err
		}
		if math.Abs(f) > 1<<53 {
			return 0, strconv.ErrRange
		}
		return strconv.ParseInt(strconv.FormatFloat(f, 'f', -1, 64), 10, bits)
	}
	return i, err
}

// parseUint is parseInt without a sign.
func parseUint(s string, bits int) (uint64, error) {
	s = plainNumber(s)
	u, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 0, bits)
	if errors.Is(err, strconv.ErrSyntax) {
		i, err := parseInt(s, 64)
		switch {
		case err != nil:
			return 0, err
		case i < 0 || bits < 64 && i>>bits != 0:
			return 0, strconv.ErrRange
		}
		return uint64(i), nil
	}
	return u, err
}

// parseFloat parses what YAML calls a float or an integer.
func parseFloat(s string) (float64, error) {
	switch strings.ToLower(s) {
	case ".inf", "+.inf":
		return math.Inf(1), nil
	case "-.inf":
		return math.Inf(-1), nil
	case ".nan":
		return math.NaN(), nil
	}
	s = plainNumber(s)
	if i, err := strconv.ParseInt(s, 0, 64); err == nil {
		return float64(i), nil // hexadecimal and octal ones, too
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) || strings.ContainsAny(s, "xX") {
		return 0, strconv.ErrSyntax // the words that Go knows and YAML doesn't
	}
	return f, nil
}

// check checks v, decoded from s, against the constraints.
func (l *limits) check(v reflect.Value, k kind, s text) error {
	switch k {
	case kindString, kindText:
		if n := utf8.RuneCountInString(s.s); n > l.maxlen {
			return fmt.Errorf("%s has %d characters (expected at most %d)", s.show(), n, l.maxlen)
		}
	}
	if k == kindString && l.enum != nil && !slices.Contains(l.enum, s.s) {
		near := ""
		if s.shown && s.env == "" {
			if n := nearest(s.s, l.enum); n != "" {
				near = fmt.Sprintf("; did you mean %q?", n)
			}
		}
		return fmt.Errorf("%s is unknown (expected one of: %s%s)", s.show(), strings.Join(l.enum, ", "), near)
	}
	if want, detail := checkFormat(l.format, s.s); want != "" {
		if strings.Contains(s.s, "@") {
			s.shown = false // a URL with a password, perhaps
		}
		if detail != "" && s.shown && s.env == "" {
			want += "; " + detail
		}
		return fmt.Errorf("%s is not valid (expected %s)", s.show(), want)
	}
	if l.rangeText == "" {
		return nil
	}
	var f float64
	unit := ""
	switch k {
	case kindInt:
		f = float64(v.Int())
	case kindUint:
		f = float64(v.Uint())
	case kindFloat:
		f = v.Float()
	case kindDuration:
		f, unit = time.Duration(v.Int()).Seconds(), " seconds"
	}
	if f < l.min || f > l.max {
		return fmt.Errorf("%s is out of range (expected %s%s)", s.show(), l.rangeText, unit)
	}
	return nil
}

// parseRange parses "a..b", where a or b may be missing.
func parseRange(s string) (lo, hi float64, err error) {
	before, after, ok := strings.Cut(s, "..")
	lo, hi = math.Inf(-1), math.Inf(1)
	if before != "" {
		lo, err = strconv.ParseFloat(before, 64)
	}
	if after != "" && err == nil {
		hi, err = strconv.ParseFloat(after, 64)
	}
	if !ok || err != nil || !(lo <= hi) {
		return 0, 0, fmt.Errorf("%q is no range such as 0.5..60", s)
	}
	return lo, hi, nil
}

// checkFormat says what a text of the format is, and what is wrong with s in
// particular, which may repeat it; "" if nothing is wrong.
func checkFormat(format, s string) (want, detail string) {
	switch format {
	case "url":
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
			return "http:// or https:// and a host", ""
		}
	case "path":
		if strings.IndexByte(s, 0) >= 0 || slices.Contains(strings.Split(s, "/"), "..") {
			return `a path without ".."`, ""
		}
	case "ipport":
		if host, port, ok := hostPort(s); !ok || host == "" || port == 0 {
			return "an address or host name, a colon and a port, such as 127.0.0.1:9092", ""
		}
	case "hostport":
		if _, _, ok := hostPort(s); !ok {
			return "an address, a host name or nothing, a colon and a port, such as 127.0.0.1:9179", ""
		}
	case "regexp":
		if _, err := regexp.Compile(s); err != nil {
			return "a regular expression", strings.TrimPrefix(err.Error(), "error parsing regexp: ")
		}
	case "glob":
		if _, err := path.Match(s, ""); err != nil {
			return "a pattern such as /system.slice/*", ""
		}
	}
	return "", ""
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?$`)

func hostPort(s string) (host string, port uint64, ok bool) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, false
	}
	port, err = strconv.ParseUint(text, 10, 16)
	if _, ip := netip.ParseAddr(host); ip != nil && host != "" && !hostName.MatchString(host) {
		return "", 0, false
	}
	return host, port, err == nil
}
